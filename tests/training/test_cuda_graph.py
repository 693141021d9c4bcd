"""Recorded steps are the steps; what cannot be recorded is taken without, or refused.

A tape stands for a CUDA graph where there is none (tests/tape.py). The last tests are
of a CUDA graph itself and are skipped without a GPU: `pytest tests/training/test_cuda_graph.py`.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import divtrain as dt
from divtrain.checks import trusting_labels
from divtrain.data import Clean, Images, Noisy, Stream, balanced_subset, load_dataset
from divtrain.errors import DivtrainError
from divtrain.training import (
    CrossEntropy,
    GradientAlignment,
    StepResult,
    Term,
    TrainingSettings,
    cuda_graph,
    step_together,
    train,
)
from divtrain.training.cuda_graph import RecordedSteps, Watch, check_cuda_graph
from tape import TapeRecorder, tapes_for_cuda_graphs

BASE: list[Term] = [CrossEntropy()]
DIV: list[Term] = [CrossEntropy(), GradientAlignment(0.5)]
LAZY: list[Term] = [CrossEntropy(), GradientAlignment(0.5, every=3)]
PART: list[Term] = [CrossEntropy(), GradientAlignment(0.5, every=2, part=0.5)]
TERMS = {"base": BASE, "div": DIV, "lazy": LAZY, "part": PART}

with_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(0.2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(108, 10))


def nets(kind: str) -> list[nn.Module]:
    torch.manual_seed(0)
    if kind in ("conv3", "resnet20"):
        return [dt.models.build(kind, 1, 8, 10) for _ in "ab"]
    return [normed() if kind == "normed" else plain() for _ in "abc"]


def ensemble(kind: str, dtype: torch.dtype = torch.float64) -> dt.Ensemble:
    return dt.Ensemble(nets(kind)).to(dtype)


def batches(count: int, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.rand(6, 1, 8, 8, generator=generator, dtype=dtype),
         torch.randint(10, (6,), generator=generator))
        for _ in range(count)
    ]  # fmt: skip


def run(ens: dt.Ensemble, terms: list[Term], recorded: RecordedSteps | None) -> list[Any]:
    """Steps of gradient descent; what they return, and the weights and buffers in the end."""
    torch.manual_seed(3)
    found: list[Any] = []
    descent = torch.optim.SGD(ens.parameters(), 0.1)
    for number, (x, y) in enumerate(batches(12)):

        def step(x: Tensor, y: Tensor, number: int = number) -> StepResult:
            return step_together(ens, x, y, terms, number)

        descent.zero_grad()
        kind = tuple(term.share(number) for term in terms)
        done = step(x, y) if recorded is None else recorded(step, x, y, kind)
        found += [
            done.loss.clone(),
            done.logits.clone(),
            {n: v.clone() for n, v in done.log.items()},
        ]
        found.append([None if p.grad is None else p.grad.clone() for p in ens.parameters()])
        descent.step()
    return [*found, {name: value.clone() for name, value in ens.state_dict().items()}]


NETS = ("conv3", "resnet20", "normed", "plain")
CASES = [
    (name, net) for name in TERMS for net in NETS if name != "part" or net in ("conv3", "plain")
]
"""A part of a batch is refused for batch norm."""


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_recorded_steps_are_the_steps(name: str, kind: str) -> None:
    """Bit for bit, with dropout, running statistics, frozen weights and several kinds of steps."""
    ens = ensemble(kind)
    next(ens.parameters()).requires_grad_(False)
    other = copy.deepcopy(ens)
    recorder = TapeRecorder(ens)
    recorded = RecordedSteps([p for p in ens.parameters() if p.requires_grad], recorder)
    ours, theirs = run(ens, TERMS[name], recorded), run(other, TERMS[name], None)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    kinds = {tuple(term.share(number) for term in TERMS[name]) for number in range(12)}
    assert len(recorder.tapes) == len(kinds)
    assert sum(tape.played for tape in recorder.tapes) == 12 - cuda_graph.WARM_UP * len(kinds)


class Looking(nn.Module):
    """Goes another way for large values, so it has to look at them."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Masked(nn.Module):
    """Takes the rows that are not zero: their number is a value."""

    def forward(self, x: Tensor) -> Tensor:
        return x[x.flatten(1).any(1)]


class Picking(nn.Module):
    """Picks columns by places that lie on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, torch.arange(8)]


class LookingBack(nn.Module):
    """Looks at the gradient on its way back."""

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(lambda g: g if g.isnan().any() else g * 1)
        return x


@pytest.mark.parametrize(
    ("module", "name"),
    [(Looking, "_local_scalar_dense"), (Masked, "index"), (LookingBack, "_local_scalar_dense")],
)
def test_what_cannot_be_recorded_is_taken_as_it_is_and_said_once(
    module: type[nn.Module], name: str
) -> None:
    ens = dt.Ensemble([nn.Sequential(module(), plain()) for _ in "ab"]).double()
    other = copy.deepcopy(ens)
    recorder = TapeRecorder(ens)
    recorded = RecordedSteps(ens.parameters(), recorder)
    with pytest.warns(UserWarning, match=f"without a CUDA graph.* in aten::{name}") as told:
        ours = run(ens, DIV, recorded)
    assert len(told) == 1 and not recorder.tapes
    torch.testing.assert_close(ours, run(other, DIV, None), rtol=0, atol=0)


def test_tensors_of_several_devices_are_noted() -> None:
    x = torch.rand(2, 1, 8, 8, device="meta")
    for run, name in (
        (lambda: Picking()(x), "aten::index.Tensor"),
        (lambda: x + torch.rand(2, 1, 8, 8).to("meta"), "aten::_to_copy"),
    ):
        with Watch() as watch:
            run()
        assert list(watch.noted) == [name]
    with Watch() as watch:
        _ = x * torch.tensor(3.0) + x[:, :, torch.arange(8, device="meta")]
    assert not watch.noted


def test_what_the_recorder_sees_waiting_counts_too() -> None:
    ens, recorder = ensemble("plain"), TapeRecorder(ensemble("plain"))
    recorder.waits = lambda step: (step(), ["net.py:7"])
    with pytest.warns(UserWarning, match=r"without a CUDA graph.* in net\.py:7"):
        run(ens, DIV, RecordedSteps(ens.parameters(), recorder))
    assert not recorder.tapes


def test_a_recording_that_fails_all_the_same_ends_the_training() -> None:
    ens, recorder = ensemble("plain"), TapeRecorder(ensemble("plain"))
    recorder.record = lambda step: (_ for _ in ()).throw(RuntimeError("capture failed\nmore"))
    with pytest.raises(DivtrainError, match=r"capture failed; .*without --train\.cuda-graph"):
        run(ens, DIV, RecordedSteps(ens.parameters(), recorder))


def test_a_mistake_while_recording_is_not_hidden() -> None:
    ens, calls = ensemble("plain"), []

    def step(x: Tensor, y: Tensor) -> StepResult:
        calls.append(1)
        if len(calls) > cuda_graph.WARM_UP:
            raise DivtrainError("expected something else")
        return step_together(ens, x, y, BASE)

    recorded = RecordedSteps(ens.parameters(), TapeRecorder(ens))
    with pytest.raises(DivtrainError, match="something else"):
        for x, y in batches(5):
            recorded(step, x, y, "base")


def test_no_more_kinds_are_recorded_than_memory_is_meant_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_graph, "MOST_KINDS", 1)
    ens = ensemble("normed")
    other = copy.deepcopy(ens)
    recorder = TapeRecorder(ens)
    ours = run(ens, LAZY, RecordedSteps(ens.parameters(), recorder))
    assert len(recorder.tapes) == 1
    torch.testing.assert_close(ours, run(other, LAZY, None), rtol=0, atol=0)


def test_a_batch_of_another_shape_is_another_kind() -> None:
    ens = ensemble("plain")
    recorder = TapeRecorder(ens)
    recorded = RecordedSteps(ens.parameters(), recorder)

    def step(x: Tensor, y: Tensor) -> StepResult:
        return step_together(ens, x, y, DIV)

    for size in (6, 4):
        for x, y in batches(5):
            done = recorded(step, x[:size], y[:size], "div")
            assert done.logits.shape == (3, size, 10)
            expected = step_together(copy.deepcopy(ens), x[:size], y[:size], DIV)
            torch.testing.assert_close(done.loss, expected.loss, rtol=0, atol=0)
    assert len(recorder.tapes) == 2


@pytest.fixture
def tapes() -> Iterator[list[TapeRecorder]]:
    with tapes_for_cuda_graphs() as made:
        yield made


def stream() -> Stream:
    images = balanced_subset(load_dataset("digits").train, 120)
    return Stream(images, 40, (Clean(), Noisy(0.2)), shift=1, seed=5)


@pytest.mark.parametrize("name", ["base", "div", "lazy"])
def test_training_with_recordings_is_training_and_may_be_resumed_either_way(
    name: str, tapes: list[TapeRecorder], tmp_path: Path
) -> None:
    without = TrainingSettings(epochs=3, learning_rate=1e-2)
    recorded = replace(without, cuda_graph=True)
    expected = ensemble("normed", torch.float32)
    history = train(expected, stream(), TERMS[name], without)

    def stop(step: int, steps: int, means: dict[str, float]) -> None:
        if step == 9:
            raise KeyboardInterrupt

    for first, then in ((recorded, recorded), (without, recorded), (recorded, without)):
        ens, state = ensemble("normed", torch.float32), tmp_path / f"{len(tapes)}.safetensors"
        with pytest.raises(KeyboardInterrupt):
            saving = replace(first, save_every=0.0)
            train(ens, stream(), TERMS[name], saving, state_file=state, on_step=stop)
        found = train(ens, stream(), TERMS[name], then, state_file=state)
        torch.testing.assert_close(ens.state_dict(), expected.state_dict(), rtol=0, atol=0)
        for row, other in zip(found, history, strict=True):
            assert {**row, "seconds": 0} == {**other, "seconds": 0}
    assert sum(tape.played for each in tapes for tape in each.tapes) > 10


def test_a_step_that_diverges_is_told_from_a_recording_too(tapes: list[TapeRecorder]) -> None:
    settings = TrainingSettings(epochs=20, learning_rate=1e30, cuda_graph=True)
    with pytest.raises(DivtrainError, match="diverged at step"):
        train(ensemble("plain", torch.float32), stream(), DIV, settings)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("cpu", False, True), "needs a CUDA GPU, training is on cpu"),
        (("cuda", True, True), "--train.by-member"),
        (("cuda", False, False), "--train.strategy members"),
    ],
)
def test_what_recordings_do_not_go_with_is_refused(given: Any, told: str) -> None:
    with pytest.raises(DivtrainError, match=told):
        check_cuda_graph(*given)


def test_training_on_a_cpu_refuses_recordings_before_the_first_step() -> None:
    ens = ensemble("plain", torch.float32)
    before = copy.deepcopy(ens.state_dict())
    with pytest.raises(DivtrainError, match="needs a CUDA GPU"):
        train(ens, stream(), BASE, TrainingSettings(cuda_graph=True))
    torch.testing.assert_close(ens.state_dict(), before, rtol=0, atol=0)


# Of a GPU, without one


@pytest.mark.parametrize("kind", ["conv3", "resnet20", "normed"])
@pytest.mark.parametrize("terms", [BASE, DIV])
def test_a_step_looks_at_no_value_and_mixes_no_devices(
    kind: str, terms: list[Term], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device whose tensors have no values: a look at one raises; so does one of the CPU."""
    monkeypatch.setattr("divtrain.double_backward.mode.DEVICES", ("meta",))
    monkeypatch.setattr("divtrain.double_backward.mode._autocast", lambda x: x)
    monkeypatch.setattr("torch.autocast", lambda *_, **__: nullcontext())  # has none of this device
    ens = dt.Ensemble(nets(kind)).to("meta")
    x = torch.rand(6, 1, 8, 8, device="meta")
    y = torch.zeros(6, dtype=torch.long, device="meta")
    with trusting_labels():
        done = step_together(ens, x, y, terms)
    tensors = [done.loss, done.logits, *done.log.values(), *(p.grad for p in ens.parameters())]
    assert {None if each is None else each.device.type for each in tensors} == {"meta"}


# Of a GPU


@with_cuda
@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[1] != "normed"])
def test_a_cuda_graph_takes_the_same_steps(name: str, kind: str) -> None:
    settings = TrainingSettings(epochs=3, learning_rate=1e-3)
    found = []
    for chosen in (settings, replace(settings, cuda_graph=True)):
        ens = ensemble(kind)
        images = balanced_subset(load_dataset("digits").train, 120)
        moved = Images(images.x.double().cuda(), images.y.cuda())
        gpu = Stream(moved, 40, (Clean(), Noisy(0.2)), shift=1, seed=5)
        fabric = Fabric(accelerator="cuda", devices=1)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*CUDA graph")
            train(ens, gpu, TERMS[name], chosen, fabric)
        found.append({n: t.cpu() for n, t in ens.state_dict().items()})
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-8)


@with_cuda
def test_a_module_that_looks_at_values_is_trained_without_a_cuda_graph() -> None:
    images = balanced_subset(load_dataset("digits").train, 120).to(torch.device("cuda"))
    ens = dt.Ensemble([nn.Sequential(Looking(), plain()) for _ in "ab"])
    settings = TrainingSettings(epochs=3, cuda_graph=True)
    with pytest.warns(UserWarning, match="without a CUDA graph"):
        train(ens, Stream(images, 40), DIV, settings, Fabric(accelerator="cuda", devices=1))
