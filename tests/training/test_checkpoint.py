"""Ensembles saved and loaded; see tests/test_files.py for damage to the file itself."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import divtrain as dt
from divtrain.models import build
from divtrain.training import Factory


@pytest.mark.parametrize("names", [["conv3", "conv3"], ["resnet20", "conv4"]])
def test_an_ensemble_comes_back_as_it_was(tmp_path: Path, names: list[str]) -> None:
    options: dict[str, Any] = {"activation": "relu", "slope": 0.2, "mean": (0.3,), "std": (0.4,)}
    ens = dt.Ensemble([build(name, 1, 8, 10, **options) for name in names], aggregate="logit")
    ens.train()(torch.rand(4, 1, 8, 8))  # moves the running statistics
    dt.save_ensemble(tmp_path / "e.safetensors", ens, {"data": "digits", "seed": 3})
    again, about = dt.load_ensemble(tmp_path / "e.safetensors")
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(x), ens.eval()(x))
    assert again.aggregate == "logit" and not again.training
    assert [m.architecture for m in again.members] == [m.architecture for m in ens.members]  # pyright: ignore
    assert about == {"divtrain": dt.__version__, "data": "digits", "seed": 3}


def test_members_of_the_users_own_load_into_an_ensemble_he_built(tmp_path: Path) -> None:
    def make() -> dt.Ensemble:
        return dt.Ensemble([nn.Sequential(nn.Flatten(), nn.Linear(4, 2)) for _ in "ab"])

    ens, again, file = make(), make(), tmp_path / "e.safetensors"
    dt.save_ensemble(file, ens, {"note": "mine"})
    with pytest.raises(dt.DivtrainError, match=r"use load_weights\(path, ensemble\)"):
        dt.load_ensemble(file)
    assert dt.load_weights(file, again)["note"] == "mine"
    x = torch.rand(3, 1, 2, 2)
    assert torch.equal(again(x), ens(x))


THEIRS = """
import torch
from torch import nn

def make(width, classes=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.Tanh(), nn.Linear(width, classes))

def broken():
    raise RuntimeError("no weather today")

number = 3
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the user's, found as from the folder that he works in."""
    (tmp_path / "their_nets.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_nets", raising=False)
    return importlib.import_module("their_nets")


def test_members_with_a_factory_come_back_if_it_may_be_called(tmp_path: Path, theirs: Any) -> None:
    small, large = (Factory("their_nets:make", {"width": width}) for width in (3, 5))
    ens = dt.Ensemble([theirs.make(3), theirs.make(5), build("conv3", 1, 8, 2)], "vote")
    file, x = tmp_path / "e.safetensors", torch.rand(3, 1, 2, 2)
    dt.save_ensemble(file, ens, {"note": "mine"}, [small, large, small])
    sys.modules.pop("their_nets")
    with pytest.raises(dt.DivtrainError, match=r"factories=\['their_nets:make'\]") as error:
        dt.load_ensemble(file)
    assert "my_module:load" in str(error.value)
    assert "their_nets" not in sys.modules  # nothing is imported because a file names it
    again, about = dt.load_ensemble(file, factories=["their_nets:make"])
    for one, other in zip(again.members[:2], ens.members[:2], strict=True):
        assert torch.equal(one(x), other(x))
    assert again.aggregate == "vote" and not again.training
    assert about["note"] == "mine"
    assert isinstance(again.members[2], type(ens.members[2]))  # divtrain's own needs no factory


def test_one_factory_stands_for_all_and_one_that_does_not_fit_is_told(
    tmp_path: Path, theirs: Any
) -> None:
    ens, file = dt.Ensemble([theirs.make(3), theirs.make(3)]), tmp_path / "e.safetensors"
    for function, arguments, told in (
        ("their_nets:make", {"width": 4}, "is of another architecture: expected members.0"),
        ("their_nets:make", {}, "cannot be built: TypeError"),
        ("their_nets:broken", {}, "cannot be built: RuntimeError: no weather today"),
        ("their_nets:absent", {}, "has no 'absent'"),
        ("builtins:dict", {}, "to return a torch.nn.Module, got dict"),
    ):
        dt.save_ensemble(file, ens, factories=Factory(function, arguments))
        with pytest.raises(dt.DivtrainError, match=told):
            dt.load_ensemble(file, [function])
    dt.save_ensemble(file, ens, factories=Factory("their_nets:make", {"width": 3}))
    assert len(dt.load_ensemble(file, ["their_nets:make"])[0]) == 2
    with pytest.raises(dt.DivtrainError, match="each of 2 members, got 3"):
        dt.save_ensemble(file, ens, factories=[Factory("their_nets:make")] * 3)
    for arguments in ({"net": nn.ReLU()}, {"size": (3, 4)}):
        with pytest.raises(dt.DivtrainError, match="that JSON can hold"):
            Factory("their_nets:make", arguments)


def test_a_checkpoint_of_another_architecture_is_refused_and_nothing_changed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "e.safetensors"
    saved, other = (dt.Ensemble([build(name, 1, 8, 10)]) for name in ("conv3", "conv4"))
    dt.save_ensemble(file, saved)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(dt.DivtrainError, match="is of another architecture: expected members"):
        dt.load_weights(file, other)
    assert all(torch.equal(v, before[n]) for n, v in other.state_dict().items())


def damaged(metadata: object) -> bytes:
    return safetensors.torch.save({"a": torch.zeros(1)}, {"divtrain": json.dumps(metadata)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable safetensors"),
        (safetensors.torch.save({"a": torch.zeros(1)}), "no divtrain metadata"),
        (damaged({"format": "something else"}), "expected format"),
        (damaged([1, 2]), "expected format"),
        (damaged({"format": "divtrain-ensemble-1"}), "is damaged, .* aggregate: Field required"),
        *(
            (damaged({"format": "divtrain-ensemble-1", "aggregate": "prob", "about": {}}
             | {"members": members}), "is damaged, .* members")
            for members in ([{"name": "conv3"}], [7])
        ),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "e.safetensors"
    file.write_bytes(content)
    with pytest.raises(dt.DivtrainError, match=message):
        dt.load_ensemble(file)
