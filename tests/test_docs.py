"""The code in the documentation runs, and its links lead somewhere."""

import csv
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import divtrain as dt
from divtrain.cli import main
from divtrain.data import Images
from divtrain.experiments import RunDirectory
from divtrain.experiments.stages.evaluate import read_evaluation
from divtrain.files import read_json_lines
from divtrain.identity import _read

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/**/*.md")])


def test_the_attack_of_ones_own_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/attacks.md").read_text(), re.DOTALL)
    module, use = (block for block in blocks if "DecayingFGSM" in block)
    (tmp_path / "my_attacks.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    model, surrogate = (nn.Sequential(nn.Flatten(), nn.Linear(16, 4)) for _ in range(2))
    x = torch.rand(40, 1, 4, 4)
    y = model(x).argmax(1)
    names = {"model": model, "surrogate": surrogate, "x": x, "y": y, "images": Images(x, y)}
    exec(compile(use, "docs/attacks.md", "exec"), names | {"dt": dt}, names)
    x_adv, found = names["x_adv"], names["found"]
    assert isinstance(x_adv, torch.Tensor)
    assert isinstance(found, dt.evaluation.Evaluation)
    assert 0 < (x_adv - x).abs().max() <= 0.1 + 1e-6
    before, after = (dt.cross_entropy(model(each), y).mean() for each in (x, x_adv))
    assert after > before
    own = [record for record in found.records() if record.attack == "my_attacks:DecayingFGSM"]
    assert [record.threat for record in own] == ["transfer", "white-box"]
    assert "DecayingFGSM" in capsys.readouterr().out
    assert "one-step-beats-many" not in found.not_asked()  # the one step is FGSM, the many are its


def test_the_ideas_of_ones_own_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defence, an attack and an analysis from one file, by the command that stands below it."""
    text = (ROOT / "docs/extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (command,) = re.findall(r"```\n(divtrain .*?)```", text, re.DOTALL)
    (tmp_path / "my_ideas.py").write_text("\n".join(blocks))
    monkeypatch.syspath_prepend(tmp_path)
    small = ["--data.train-size=160", "--data.test-size=30", "--model.members", "conv3", "conv3",
             "--train.epochs=1", "--train.batch-size=40", "--train.precision=fp32",
             "--attack.eps", "0.1", "--attack.white-box", "fgsm",
             "--surrogates", "base", "my_ideas:Orthogonal"]  # fmt: skip
    out = tmp_path / "run"
    words = shlex.split(command.replace("\\\n", " "))[1:]
    assert main([*words, *small, f"--out={out}"]) == 0
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    found = {(row["target"], row["attack"]) for row in rows if row["threat"] == "transfer"}
    targets = ("base", "my_ideas:Orthogonal")
    attacks = ("clean", "fgsm", "my_ideas:DecayingFGSM", "worst")
    assert found == {(target, attack) for target in targets for attack in attacks}
    records = read_json_lines(out / "records.jsonl")
    assert {"base", "my_ideas:Orthogonal"} <= {record["surrogate"] for record in records}
    page = (out / "report.md").read_text()
    _, section = page.split("Input gradients")
    for target in targets:
        assert re.search(rf"{target} *\| *0\.\d+", section)
    evaluations = [each for each in RunDirectory(out).finished() if each.kind == "evaluate"]
    for each in map(read_evaluation, evaluations):
        assert "one-step-beats-many" not in each.not_asked()  # the many steps are its
    # The defence's code changes, and with it its digest: what depends on it is done again.
    (tmp_path / "my_ideas.py").write_text("\n".join(blocks).replace(".square()", ".abs()"))
    del sys.modules["my_ideas"]
    importlib.invalidate_caches()
    _read.cache_clear()  # as in another process
    assert main([*words, *small, f"--out={out}"]) == 0
    again = " ".join(re.findall(r" again .*", (out / "log.txt").read_text()))
    assert "train-my_ideas-Orthogonal-s0" in again
    assert "train-base-s0" not in again


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://", "mailto:")):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page}: {target}"
        if anchor and file.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles}
            assert anchor in anchors, f"{page}: {target}"
