"""Models for other runtimes: torch.export and ONNX, of any batch size, checked when written."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import divtrain as dt
from divtrain.cli import main
from divtrain.training.export import export_model, image_shape

AGGREGATES = ("prob", "logit", "vote")
SHAPE = (1, 8, 8)


def member() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(144, 5)
    )


def ensemble(aggregate: Any = "prob") -> dt.Ensemble:
    torch.manual_seed(0)
    ens = dt.Ensemble([member(), nn.Sequential(nn.Flatten(), nn.Linear(64, 5))], aggregate)
    ens(torch.rand(32, *SHAPE))  # some running statistics
    return ens.eval()


def answers_of(file: Path) -> Callable[[Tensor], Tensor]:
    """Read a file as somebody without divtrain does."""
    if file.suffix == ".pt2":
        return torch.export.load(file).module()
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    session = onnxruntime.InferenceSession(str(file))
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


def need(ending: str) -> None:
    if ending == "onnx":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.mark.parametrize("ending", ["pt2", "onnx"])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_what_is_exported_answers_as_the_ensemble_for_any_batch(
    aggregate: str, ending: str, tmp_path: Path
) -> None:
    need(ending)
    ens, file = ensemble(aggregate).train(), tmp_path / f"new/model.{ending}"
    assert export_model(ens, file, SHAPE) < 1e-5
    assert ens.training
    answers = answers_of(file)
    ens.eval()
    for batch in (1, 4, 50):
        x = torch.rand(batch, *SHAPE)
        torch.testing.assert_close(answers(x), ens(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_trace_of_an_ensemble_takes_any_batch(aggregate: str) -> None:
    ens = ensemble(aggregate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated; people have it
        trace: Any = torch.jit.trace(ens, torch.rand(8, *SHAPE))
    for batch in (1, 8, 11):
        x = torch.rand(batch, *SHAPE)
        torch.testing.assert_close(trace(x), ens(x))  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("ending", ["pt2", "onnx"])
def test_a_checkpoint_is_exported_by_the_command(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need(ending)
    torch.manual_seed(0)
    ens = dt.Ensemble([dt.models.build("conv3", 1, 8, 10, mean=(0.3,), std=(0.2,))] * 1)
    saved, file = tmp_path / "ens.safetensors", tmp_path / f"ens.{ending}"
    dt.save_ensemble(saved, ens)
    assert main(["export", str(saved), str(file)]) == 0
    out = capsys.readouterr().out
    assert f"wrote {file}: images (batch, 1, 8, 8) in [0, 1] to logits" in out
    x = torch.rand(3, *SHAPE)
    torch.testing.assert_close(answers_of(file)(x), ens.eval()(x).detach(), rtol=1e-5, atol=1e-5)


def test_mistakes_are_told_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) + torch.rand_like(x.flatten(1))

    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": x.flatten(1)}

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    for model, name, told in (
        (ensemble(), "m.pth", r"ending in \.pt2 or \.onnx, got 'm.pth'"),
        (Random(), "m.pt2", "answers otherwise than the model.* was not written"),
        (Branching(), "m.pt2", "cannot take Branching apart"),
        (nn.Linear(9, 2), "m.pt2", r"Linear does not map images .*`image`, \(1, 8, 8\), to logits"),
        (Named(), "m.pt2", r"expected logits of shape \(1, classes\), got dict"),
    ):
        with pytest.raises(dt.DivtrainError, match=told):
            export_model(model, tmp_path / name, SHAPE)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(dt.DivtrainError, match=r"'\.\[onnx\]'"):
        export_model(ensemble(), tmp_path / "m.onnx", SHAPE)
    with pytest.raises(dt.DivtrainError, match="`image`"):
        image_shape(ensemble())
    (tmp_path / "their_model.py").write_text("from torch import nn\nnet = nn.Flatten()\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["export", "their_model:net", str(tmp_path / "m.pt2")]) == 2
    assert "--image" in capsys.readouterr().err
    assert not list(tmp_path.glob("m.*"))
    assert (
        main(["export", "their_model:net", str(tmp_path / "m.pt2"), "--image", "1", "4", "4"]) == 0
    )
    assert answers_of(tmp_path / "m.pt2")(torch.rand(2, 1, 4, 4)).shape == (2, 16)
