import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_own_loop_learns_the_digits_with_misaligned_members() -> None:
    coherence, accuracy = load("own_loop").main()
    assert accuracy > 0.95
    assert coherence < 0.3


def test_own_models_finds_white_box_attacks_stronger_than_transferred_ones() -> None:
    found = {(r.threat, r.eps, r.attack): r.accuracy for r in load("own_models").main()}
    assert found["clean", 0.0, "clean"] > 0.9
    assert found["white-box", 0.1, "worst"] < found["transfer", 0.1, "worst"]
    assert found["transfer", 0.1, "worst"] <= found["transfer", 0.05, "worst"]


def test_other_libraries_leave_about_as_much_as_our_pgd() -> None:
    left = load("other_libraries").main()
    assert left["divtrain"] < 0.5
    assert all(abs(other - left["divtrain"]) < 0.05 for other in left.values())


def test_own_defence_turns_the_members_gradients_apart() -> None:
    found = load("own_defence").main()
    assert found["own"] < found["base"] / 2


def test_own_attack_beats_the_one_step_it_begins_with() -> None:
    left = load("own_attack").main()
    assert left["own"] < left["FGSM"] < 0.6


@pytest.mark.filterwarnings("ignore")  # Lightning's, about itself
def test_lightning_learns_the_digits_with_misaligned_members() -> None:
    pytest.importorskip("lightning", reason="lightning is not installed")
    check_lightning(load("lightning_loop").main())


def test_lightning_under_ddp_learns_them_in_two_processes() -> None:
    pytest.importorskip("lightning", reason="lightning is not installed")
    command = [sys.executable, str(EXAMPLES / "lightning_loop.py"), "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = re.findall(r"^coherence=.*$", done.stdout, re.MULTILINE)  # of the first process alone
    check_lightning({k: float(v) for k, v in (pair.split("=") for pair in line.split())})


def check_lightning(found: dict[str, float]) -> None:
    assert found["valid_accuracy"] > 0.9
    assert found["valid_coherence"] < 0.2


def test_members_of_timm_are_trained_saved_and_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    monkeypatch.syspath_prepend(EXAMPLES)
    accuracy, difference = load("timm_members").main()
    assert accuracy > 0.5
    assert difference < 1e-4


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "lightning_loop",
        "other_libraries",
        "own_attack",
        "own_defence",
        "own_loop",
        "own_models",
        "timm_members",
    }
