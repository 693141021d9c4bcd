import importlib.util
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
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


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "own_loop",
        "own_models",
        "other_libraries",
    }
