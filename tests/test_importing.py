"""MODULE:ATTRIBUTE of a user's: every failure of it is explained, none ends in a traceback."""

from pathlib import Path

import pytest

import divtrain as dt
from divtrain.attacks import find_attack
from divtrain.defences import build_defence
from divtrain.experiments.analyses import find_analysis
from divtrain.experiments.model_source import open_model
from divtrain.importing import calling, import_named

THEIRS = """
from dataclasses import dataclass
import divtrain as dt

@dataclass(frozen=True)
class Unset(dt.defences.Defence):
    beta: float

def needs(path):
    return path

def fails():
    return {}["weights"]
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs_whole.py").write_text(THEIRS)
    (tmp_path / "theirs_syntax.py").write_text("def f(:\n")
    (tmp_path / "theirs_raises.py").write_text("\nraise RuntimeError('no GPU')\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("theirs_whole:absent", "module 'theirs_whole' has no 'absent' at its top"),
        ("theirs_syntax:X", "cannot import 'theirs_syntax': SyntaxError"),
        ("theirs_raises:X", r"RuntimeError: no GPU \(.*theirs_raises.py, line 2\)"),
        ("no_such_module:X", "No module named 'no_such_module'"),
        (":x", "MODULE:ATTRIBUTE"),
        (".x:Y", "MODULE:ATTRIBUTE"),
    ],
)
def test_what_cannot_be_imported_is_explained_wherever_a_name_is_taken(
    name: str, message: str
) -> None:
    with pytest.raises(dt.DivtrainError, match=message):
        import_named("thing", name)
    for find in (build_defence, find_attack, find_analysis):
        with pytest.raises(dt.DivtrainError):
            find(name)


def test_what_cannot_be_built_is_explained() -> None:
    with pytest.raises(dt.DivtrainError, match="'theirs_whole:Unset' cannot be built.*beta"):
        build_defence("theirs_whole:Unset")
    # What needs an argument is a function of images, not one that builds a model.
    assert "theirs_whole:needs" in repr(open_model("net", "theirs_whole:needs").model)
    with pytest.raises(dt.DivtrainError, match="KeyError: 'weights'.*theirs_whole.py, line 13"):
        open_model("net", "theirs_whole:fails")


def test_a_message_of_ours_is_left_as_it_is() -> None:
    with pytest.raises(dt.DivtrainError, match="^as it is$"), calling("thing", "a:b"):
        raise dt.DivtrainError("as it is")
