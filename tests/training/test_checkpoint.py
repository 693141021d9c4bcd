import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import divtrain as dt
from divtrain.models import build


def ensemble(name: str = "conv3") -> dt.Ensemble:
    nets = [
        build(name, 1, 8, 10, activation="relu", slope=0.2, mean=(0.3,), std=(0.4,)) for _ in "ab"
    ]
    return dt.Ensemble(nets, aggregate="logit")


def test_an_ensemble_comes_back_as_it_was(tmp_path: Path) -> None:
    ens, file = ensemble().eval(), tmp_path / "e.safetensors"
    dt.save_ensemble(file, ens, {"data": "digits", "seed": 3})
    again, about = dt.load_ensemble(file)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(x), ens(x))
    assert again.aggregate == "logit"
    assert not again.training
    assert [m.architecture for m in again.members] == [m.architecture for m in ens.members]  # pyright: ignore
    assert about == {"divtrain": dt.__version__, "data": "digits", "seed": 3}


def test_a_mixed_ensemble_with_batch_norm_comes_back(tmp_path: Path) -> None:
    ens = dt.Ensemble([build("resnet20", 1, 8, 10), build("conv4", 1, 8, 10)])
    ens.train()(torch.rand(4, 1, 8, 8))  # moves the running statistics
    dt.save_ensemble(tmp_path / "e.safetensors", ens)
    again, _ = dt.load_ensemble(tmp_path / "e.safetensors")
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(again(x), ens.eval()(x))


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


def test_a_checkpoint_of_another_architecture_is_refused_and_nothing_changed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "e.safetensors"
    dt.save_ensemble(file, ensemble("conv3"))
    other = ensemble("conv4")
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(dt.DivtrainError, match="is of another architecture: expected members"):
        dt.load_weights(file, other)
    assert all(torch.equal(v, before[n]) for n, v in other.state_dict().items())


def damaged(metadata: object) -> bytes:
    return safetensors.torch.save({"a": torch.zeros(1)}, {"divtrain": json.dumps(metadata)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": 1}), "not a readable safetensors"),
        (b"", "not a readable safetensors"),
        (safetensors.torch.save({"a": torch.zeros(1)}), "no divtrain metadata"),
        (damaged({"format": "something else"}), "expected format"),
        (damaged([1, 2]), "expected format"),
        (damaged({"format": "divtrain-ensemble-1"}), "is damaged, .* aggregate: Field required"),
        (
            damaged({"format": "divtrain-ensemble-1", "aggregate": "prob", "about": {},
                     "members": [{"name": "conv3"}]}),
            "is damaged, .* members",
        ),
        (
            damaged({"format": "divtrain-ensemble-1", "aggregate": "prob", "about": {},
                     "members": [7]}),
            "is damaged, .* members",
        ),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "e.safetensors"
    file.write_bytes(content)
    with pytest.raises(dt.DivtrainError, match=message):
        dt.load_ensemble(file)


def test_a_checkpoint_cut_anywhere_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "e.safetensors"
    dt.save_ensemble(file, ensemble())
    whole = file.read_bytes()
    for length in (1, 7, 8, 100, 2000, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(dt.DivtrainError, match="not a readable safetensors"):
            dt.load_ensemble(file)


def test_a_pickled_checkpoint_is_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # pyright: ignore

    file = tmp_path / "e.safetensors"
    torch.save({"a": Trap()}, file)
    with pytest.raises(dt.DivtrainError, match="pickled .pt, which is never loaded"):
        dt.load_ensemble(file)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(dt.DivtrainError, match="no file at"):
        dt.load_ensemble(tmp_path / "none.safetensors")
