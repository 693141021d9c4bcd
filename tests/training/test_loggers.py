"""Curves of a training in TensorBoard and Weights & Biases: what is drawn is what was logged."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import divtrain as dt
from divtrain.cli import main
from divtrain.data import Stream
from divtrain.experiments import DataConfig
from divtrain.experiments.config import TrainConfig
from divtrain.experiments.stages.train import train_recipe
from divtrain.training import TensorBoard, WandB, train
from experiments.small import COMMON
from made import digits

QUANTITIES = {"loss", "gal", "coherence", "accuracy"}
SMALL = [
    "--data.train-size=160", "--data.test-size=30", "--model.members", "conv3", "conv3",
    "--train.epochs=1", "--train.batch-size=40", "--attack.transfer", "fgsm", "--attack.eps", "0.1",
    "--attack.white-box", "fgsm", "--targets", "base", "--pictures=0",
]  # fmt: skip


def trained(*callbacks: object, **options: Any) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in "ab"]
    batches = Stream(digits(), 60, seed=1)
    return train(dt.Ensemble(nets), batches, dt.defences.Div(), 2, callbacks=callbacks, **options)


class Seen:
    """What every step was told."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}

    def on_step(self, step: int, steps: int, means: dict[str, float]) -> None:
        self.steps[step] = means


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Read event files as TensorBoard does: by name, values by step."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    read = accumulator.EventAccumulator(str(folder))
    read.Reload()
    names = read.Tags()["scalars"]
    found = {name: {e.step: e.value for e in read.Scalars(name)} for name in names}
    assert all(len(read.Scalars(name)) == len(found[name]) for name in names)  # no step twice
    return found


@pytest.mark.filterwarnings("ignore")  # the library's, about itself
def test_tensorboard_has_every_step_and_every_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    seen = Seen()
    history = trained(TensorBoard(tmp_path / "curves"), seen)
    found = scalars(tmp_path / "curves")
    for name in QUANTITIES:
        assert found[f"epoch/{name}"] == pytest.approx({r["step"]: r[name] for r in history})
        steps = {step: means[name] for step, means in seen.steps.items()}
        assert found[f"step/{name}"] == pytest.approx(steps)
    assert [*found["epoch/learning_rate"].values()] == pytest.approx([1e-3] * 2)


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_training_goes_on_in_the_same_curves(tmp_path: Path) -> None:
    """Steps done again after a kill are drawn once."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")

    class Stop:
        def on_step(self, step: int, steps: int, means: dict[str, float]) -> None:
            if step == 3:
                raise MemoryError  # drawn, but not saved yet

    state, folder, seen, whole = tmp_path / "state", tmp_path / "curves", Seen(), Seen()
    with pytest.raises(MemoryError):
        trained(TensorBoard(folder), Stop(), state_file=state, save_every=0.0)
    trained(TensorBoard(folder), seen, state_file=state, save_every=1e6)
    trained(whole)
    found = scalars(folder)["step/loss"]
    assert found == pytest.approx({step: means["loss"] for step, means in whole.steps.items()})
    assert min(seen.steps) == 3


def entries(content: bytes) -> Iterator[bytes]:
    """Entries of a log in LevelDB's format, which an offline run is: blocks of 32 KiB."""
    place, entry = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        entry += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield entry
            entry = b""


def records(file: Path) -> list[dict[str, Any]]:
    """What an offline run logged, with its step."""
    from wandb.proto import wandb_internal_pb2  # pyright: ignore

    found: list[dict[str, Any]] = []
    for entry in entries(file.read_bytes()):
        record = wandb_internal_pb2.Record()  # pyright: ignore
        record.ParseFromString(entry)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return found


@pytest.mark.filterwarnings("ignore")
def test_wandb_has_every_step_and_every_epoch_without_network(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    seen = Seen()
    history = trained(WandB(tmp_path, "mine"), seen)
    wandb.teardown()  # the process beside this one
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    rows = {row["_step"]: row for row in records(file)}
    for name in QUANTITIES:
        assert {step: row[f"step/{name}"] for step, row in rows.items()} == pytest.approx(
            {step: means[name] for step, means in seen.steps.items()}
        )
        for row in history:
            assert rows[row["step"]][f"epoch/{name}"] == pytest.approx(row[name])


def test_a_logger_is_no_part_of_what_a_training_is() -> None:
    from divtrain.experiments.config import ModelConfig
    from divtrain.experiments.recipe import Recipe

    keys = set()
    for logger in ("none", "tensorboard", "wandb"):
        recipe = Recipe("div", "div", ModelConfig(), TrainConfig(logger=logger), 0)
        keys.add(train_recipe(recipe, "target", DataConfig(), COMMON).key)
    assert len(keys) == 1


@pytest.mark.filterwarnings("ignore")
def test_the_command_draws_every_training_and_reuses_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    out = tmp_path / "run"
    words = ["train", "digits", f"--out={out}", *SMALL]
    assert main([*words, "--train.logger", "tensorboard"]) == 0
    folders = {path.name for path in (out / "stages").glob("train-*")}
    assert {path.name for path in (out / "tensorboard").iterdir()} == folders
    assert "epoch/loss" in scalars(out / "tensorboard" / "train-base-s0")
    events = sorted(out.glob("tensorboard/*/*"))
    assert main(words) == 0
    assert main([*words, "--train.logger", "tensorboard"]) == 0
    assert sorted(out.glob("tensorboard/*/*")) == events  # nothing was trained again
    capsys.readouterr()


def test_a_library_that_is_missing_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    for logger in ("tensorboard", "wandb"):
        out = tmp_path / logger
        assert main(["train", "digits", f"--out={out}", *SMALL, f"--train.logger={logger}"]) == 2
        assert f"pip install {logger}" in " ".join(capsys.readouterr().err.split())
        assert not list(out.glob("stages/*"))
