"""Attacks and defences of a user's own: an edit of their code does again what hangs on it."""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import divtrain as dt
from divtrain.experiments import Progress, run_experiment
from divtrain.identity import _read
from experiments.small import SMALL, Watching, records, result

MODULES = {
    "their_attack": """
from dataclasses import dataclass
from divtrain.attacks import LinfAttack
from their_helper import half

@dataclass(frozen=True)
class Half(LinfAttack):
    title = "Half"

    def __call__(self, model, x, y, generator=None, on_step=None):
        return (x + half(self.eps)).clamp(0, 1)  # away from zero
""",
    "their_defence": """
from dataclasses import dataclass
from divtrain.defences import Defence

@dataclass(frozen=True)
class Plain(Defence):
    noise: float = 0.0
""",
    "their_helper": "def half(eps):\n    return eps / 2\n",
}
OWN = "their_defence-Plain"

Edit = Callable[[str, str, str], None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """Replaces something in a module, as it is seen by the next command, a new process."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)

    def forget() -> None:
        for name in MODULES:
            sys.modules.pop(name, None)
        _read.cache_clear()
        importlib.invalidate_caches()

    def replace_text(name: str, old: str, new: str) -> None:
        file = tmp_path / f"{name}.py"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new) + "\n# edited, for another size\n")
        forget()

    yield replace_text
    forget()


def test_an_edited_module_does_again_what_hangs_on_it_and_nothing_else(
    tmp_path: Path, edit: Edit
) -> None:
    config = replace(
        SMALL,
        attack=replace(SMALL.attack, transfer=("fgsm", "their_attack:Half"), white_box=()),
        targets=("base", "their_defence:Plain"),
    )
    out = tmp_path / "run"

    def again() -> set[str]:
        """What the same command does now, with a line in the log for each where it was before."""
        before = (out / "log.txt").read_text().count("\n") if out.exists() else 0
        watch = Watching()
        run_experiment(config, out, watch)
        new = (out / "log.txt").read_text().splitlines()[before:]
        lines = [line.split(" again ")[1].split(": ", 1) for line in new if " again " in line]
        told = {name: reason for names, reason in lines for name in names.split(", ")}
        if before:
            assert set(told) == set(watch.began)
        for name, reason in told.items():
            code = name.startswith(("attack", f"train-{OWN}"))
            assert reason == f"{'the code' if code else 'one of its inputs'} has changed"
        return set(watch.began)

    everything = again()
    before = result(out)
    assert f"train-{OWN}-s0" in everything
    edit("their_attack", "  # away from zero", "")
    assert again() == set()

    edit("their_attack", "x + half", "x - half")
    attacks = {name for name in everything if "their_attack" in name}
    evaluations = {name for name in everything if name.startswith("evaluate")}
    assert again() == attacks | evaluations
    assert {name.split("/")[0] for name in before if result(out)[name] != before[name]} >= attacks

    edit("their_helper", "eps / 2", "eps / 3")  # which the attack imports from beside it
    assert again() == attacks | evaluations

    edit("their_defence", "noise: float = 0.0", "noise: float = 0.0\n    least_members = 2")
    assert again() == {name for name in everything if OWN in name}
    told = {(row["target"], row["attack"]) for row in records(out)}
    assert ("their_defence:Plain", "their_attack:Half") in told

    other = replace(config, train=replace(config.train, noise=0.1))
    with pytest.raises(
        dt.DivtrainError, match=r"other settings: spec.defence.noise was 0.2, is now 0.1"
    ):
        run_experiment(other, out, Progress())
