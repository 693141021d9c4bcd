"""What tells one result from another: specs, keys, digests of code."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import divtrain as dt
from divtrain.attacks import FGSM
from divtrain.experiments.stages.coherence import measure_coherence
from divtrain.identity import _read, code_digest, key_of, spec_of


@dataclass(frozen=True)
class Noise:
    sigma: float = 0.1
    name: str = field(default="x", compare=False)


class Told:
    def spec(self) -> dict[str, Any]:
        return {"noise": Noise(0.2), "sizes": (1, 2)}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of somebody's, `theirs`."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "helper.py").write_text("FACTOR = 2\n")
    (folder / "alone.py").write_text("X = 1\n")
    (folder / "model.py").write_text(MODEL)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "theirs"]:
        del sys.modules[name]


MODEL = '''"""A model."""
import json
from theirs.helper import FACTOR

def double(x):
    """Twice."""
    return x * FACTOR  # as said
'''


def digest(*modules: str) -> str:
    """The digest as a new process takes it."""
    _read.cache_clear()
    importlib.invalidate_caches()
    return code_digest(modules)


def test_a_spec_tells_fields_that_compare_and_nothing_else() -> None:
    told = spec_of(Noise(0.3, "y"))
    assert (told["kind"], told["sigma"], "name" in told) == ("Noise", 0.3, False)
    assert told["module"] == __name__  # and the code, as it is not divtrain's
    assert spec_of(Told()) == {"noise": spec_of(Noise(0.2)), "sizes": [1, 2]}
    attack, other = spec_of(FGSM(eps=0.1)), spec_of(FGSM(eps=0.2))
    assert {name for name in attack if attack[name] != other[name]} == {"eps"}
    assert spec_of({1: (None, True, 2, 0.5, "x")}) == {"1": [None, True, 2, 0.5, "x"]}
    assert spec_of(measure_coherence) == {"kind": "measure_coherence"}


@pytest.mark.parametrize(
    "thing", [object(), lambda x: x, {1, 2}, [Noise, object()], Told().spec], ids=type
)
def test_what_cannot_be_described_is_refused_with_advice(thing: Any) -> None:
    with pytest.raises(
        dt.DivtrainError, match=r"frozen dataclass, .* or give it a method spec\(\)"
    ):
        spec_of(thing)


def test_keys_hang_on_every_value_and_not_on_the_order_of_names() -> None:
    spec = {"a": 1, "b": {"c": [1, 2], "d": 0.1}}
    assert key_of(spec) == key_of({"b": {"d": 0.1, "c": [1, 2]}, "a": 1})
    others = ({**spec, "a": 2}, {**spec, "e": None}, {"a": 1, "b": {"c": [2, 1], "d": 0.1}})
    assert len({key_of(each) for each in (spec, *others)}) == 4


def test_comments_docstrings_and_layout_are_no_code(package: Path) -> None:
    before = digest("theirs.model")
    text = MODEL.replace('"""A model."""', '"""What a\nmodel."""\n# is').replace("  # as said", "")
    (package / "model.py").write_text(text.replace("x * FACTOR", "(x\n        * FACTOR)"))
    assert digest("theirs.model") == before
    (package / "model.py").write_text(MODEL.replace("x * F", "x + F"))
    assert digest("theirs.model") != before


@pytest.mark.parametrize(
    "line",
    ["from theirs.helper import FACTOR", "import theirs.helper", "from theirs import helper",
     "from .helper import FACTOR", "from . import helper"],
)  # fmt: skip
def test_what_a_module_imports_from_its_package_counts(package: Path, line: str) -> None:
    (package / "model.py").write_text(line)
    before = digest("theirs.model")
    (package / "alone.py").write_text("X = 2\n")
    assert digest("theirs.model") == before
    (package / "helper.py").write_text("FACTOR = 3\n")
    assert digest("theirs.model") != before


def test_a_function_or_dataclass_of_somebody_elses_carries_its_code(package: Path) -> None:
    double = importlib.import_module("theirs.model").double
    before = spec_of(double)
    assert (before["kind"], before["module"]) == ("double", "theirs.model")
    (package / "helper.py").write_text("FACTOR = 4\n")
    _read.cache_clear()
    assert spec_of(double)["code"] != before["code"]


def test_equation_8_is_part_of_what_determines_a_training() -> None:
    """Whoever edits a loss, a defence or the loop trains again; a report changes nothing."""
    code: set[str] = set()
    left = ["divtrain.training", "divtrain.models", "divtrain.defences"]
    while left:
        name = left.pop()
        if name not in code:
            code.add(name)
            left += _read(name)[1]
    assert {"divtrain.gal", "divtrain.training.loop", "divtrain.defences.div"} <= code
    assert not [name for name in code if "report" in name or "experiments" in name]


def test_a_registry_and_what_a_module_alone_imports_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "some_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "top.py").write_text("from some_package.low import f\n")
    (folder / "low.py").write_text("from some_package.registry import KNOWN\nf = 1\n")
    (folder / "registry.py").write_text("KNOWN = {}\n")
    monkeypatch.syspath_prepend(tmp_path)

    def digests() -> tuple[str, str]:
        _read.cache_clear()
        return code_digest(["some_package.top"]), code_digest([], alone=["some_package.top"])

    first = digests()
    (folder / "registry.py").write_text("KNOWN = {'one': 1}\n")
    assert digests() == first
    (folder / "low.py").write_text("f = 2\n")
    assert digests()[0] != first[0] and digests()[1] == first[1]
    (folder / "top.py").write_text("g = 3\n")
    assert digests()[1] != first[1]
