"""Training steps recorded into CUDA graphs and replayed, for GPUs that outrun Python.

A step of small nets is hundreds of kernels, most of them shorter than their launch. A CUDA graph
launches them at once. It replays the same kernels on the same memory, so the batch is copied to
where the recorded one lay, and the gradients are read from where they lay.

What a step does must depend on nothing but the batch, the weights and torch's generator. Steps with
GAL and without (lazy GAL) are different kinds, recorded each; terms that change with the steps they
have seen, other than by their share, or modules that count in Python are not for this. A kind that
cannot be recorded, since a module waits for the device, is taken as without, with a warning.
"""

import warnings
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from divtrain.errors import DivtrainError
from divtrain.training.step import StepResult

WARM_UP = 3
"""Steps of a kind taken as they are before it is recorded; libraries choose their kernels then."""
MOST_KINDS = 8
"""Kinds recorded; each holds the memory of its gradients."""

Step = Callable[[Tensor, Tensor], StepResult]


@runtime_checkable
class Recorder(Protocol):
    """Records what a function does on a device."""

    def apart(self, step: Callable[[], StepResult], /) -> StepResult:
        """Run a step where recordings are made."""
        ...

    def record(self, step: Callable[[], StepResult], /) -> tuple[StepResult, Callable[[], None]]:
        """Record a step; return tensors that are filled, and what fills them."""
        ...


class CudaRecorder:
    """Recordings of one device, which share their memory: they never run at once."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def apart(self, step: Callable[[], StepResult]) -> StepResult:
        """See `Recorder`: on a stream of its own, as torch asks of steps before a recording."""
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            done = step()
        here.wait_stream(self._stream)
        return done

    def record(self, step: Callable[[], StepResult]) -> tuple[StepResult, Callable[[], None]]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            done = step()
        return done, graph.replay


@dataclass(frozen=True)
class Recording:
    """One kind of step.

    Attributes:
        batch: Where it reads images and labels.
        done: Where it leaves its result.
        gradients: Where it leaves the gradient of each parameter, None for those it has none for.
        replay: Takes the step.
    """

    batch: tuple[Tensor, Tensor]
    done: StepResult
    gradients: list[Tensor | None]
    replay: Callable[[], None]


class RecordedSteps:
    """Takes steps, from the fourth of each kind on by replaying a recording of it.

    Args:
        parameters: Those that steps give gradients; their memory may not be replaced.
        recorder: Of their device.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], recorder: Recorder):
        self._parameters = list(parameters)
        self._recorder = recorder
        self._taken: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, Recording | None] = {}

    def __call__(self, step: Step, x: Tensor, y: Tensor, kind: Hashable) -> StepResult:
        """Give the parameters the gradients of a step, in place of what they had.

        The result, and the gradients, are overwritten by the next step.

        Args:
            step: Takes images and labels and adds gradients.
            x: Images.
            y: Labels.
            kind: Equal for steps that do the same to batches of the same shape.
        """
        kind = kind, x.shape, x.stride(), x.dtype, y.dtype
        self._clear()
        taken = self._taken.setdefault(kind, 0)
        if taken < WARM_UP:
            self._taken[kind] = taken + 1
            return self._recorder.apart(lambda: step(x, y))
        if kind not in self._recordings:
            self._recordings[kind] = self._record(step, x, y)
        recording = self._recordings[kind]
        if recording is None:
            return step(x, y)
        for own, new in zip(recording.batch, (x, y), strict=True):
            own.copy_(new)
        recording.replay()
        for parameter, gradient in zip(self._parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        return recording.done

    def _record(self, step: Step, x: Tensor, y: Tensor) -> Recording | None:
        if len(self._recordings) == MOST_KINDS:
            return None
        batch = x.clone(), y.clone()
        try:
            done, replay = self._recorder.record(lambda: step(*batch))
        except RuntimeError as error:
            self._clear()
            first = str(error).strip().splitlines()[0]
            warnings.warn(
                f"these steps cannot be recorded into a CUDA graph and are taken without: {first}."
                " A module or a loss term may look at values on the way (.item(), nonzero(), a mask"
                " as an index); leave --train.cuda-graph out, or change it",
                stacklevel=2,
            )
            return None
        gradients = [parameter.grad for parameter in self._parameters]
        self._clear()
        return Recording(batch, done, gradients, replay)

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


def check_cuda_graph(device: str, by_member: bool, together: bool) -> None:
    """Check that steps can be recorded.

    Args:
        device: Type of the device, e.g. ``cpu``.
        by_member: Whether the graph of one member is held at a time.
        together: Whether a process holds all members.

    Raises:
        DivtrainError: on another device than a GPU of CUDA, and for steps that set the generator or
            talk to other processes on the way.
    """
    if device != "cuda":
        raise DivtrainError(
            f"--train.cuda-graph needs a CUDA GPU, training is on {device}; leave it out"
        )
    if by_member:
        raise DivtrainError(
            "--train.cuda-graph does not go with --train.by-member, which sets the random generator"
            " back in the middle of a step; leave one of them out"
        )
    if not together:
        raise DivtrainError(
            "--train.cuda-graph does not go with --train.strategy members, whose processes exchange"
            " input gradients in the middle of a step; take --train.strategy ddp, or leave it out"
        )
