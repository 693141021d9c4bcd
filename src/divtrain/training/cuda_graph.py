"""Training steps recorded into CUDA graphs and replayed, for GPUs that outrun Python.

A step of small nets is hundreds of kernels, most of them shorter than their launch. A CUDA graph
launches them at once. It replays the same kernels on the same memory, so the batch is copied to
where the recorded one lay, and the gradients are read from where they lay.

What a step does must depend on nothing but the batch, the weights and torch's generator. Steps
with GAL and without (lazy GAL) are different kinds, recorded each; terms that change with the steps
they have seen, other than by their share, or modules that count in Python are not for this. The
last step before a recording is watched: a kind that looks at values on the way is taken as without,
with a warning. A recording that fails all the same ends the training, since it may leave the
device's generator where no further step can draw from it.
"""

import warnings
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from divtrain.checks import trusting_labels
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

    def waits(self, step: Callable[[], StepResult], /) -> tuple[StepResult, list[str]]:
        """Run a step likewise; say also where it made the program wait for the device."""
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

    def waits(self, step: Callable[[], StepResult]) -> tuple[StepResult, list[str]]:
        """See `Recorder`: as torch tells in a mode for it."""
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                done = self.apart(step)
        finally:
            torch.cuda.set_sync_debug_mode(before)
        waits = [each for each in caught if "synchroniz" in str(each.message)]
        for each in caught:
            if each not in waits:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        return done, [f"{each.filename}:{each.lineno}" for each in waits]

    def record(self, step: Callable[[], StepResult]) -> tuple[StepResult, Callable[[], None]]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.current_stream(self._device)
        try:
            # Other threads may go on asking the device about work of theirs, as NCCL's do.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                done = step()
        finally:
            torch.cuda.set_stream(here)  # torch does not where the recording fails
        return done, graph.replay


class Watch(TorchDispatchMode):
    """Notes the operations of a step that a recording cannot hold; runs them all the same.

    Attributes:
        noted: Their names: they look at values, or have tensors of several devices.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted: dict[str, None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run `func`."""
        made = func(*args, **(kwargs or {}))
        if _looks(func, args) or _mixes(args, made):
            self.noted[func.name()] = None
        return made


def _looks(func: Any, args: tuple[Any, ...]) -> bool:
    if "index" in func.name():  # with places it does not look, with a mask it counts
        masks = (torch.bool, torch.uint8)
        return any(each.dtype in masks for each in _tensors(args[1:2]))
    looking = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    return any(tag in func.tags for tag in looking)


def _mixes(args: tuple[Any, ...], made: Any) -> bool:
    """Whether tensors of several devices meet; a scalar of the CPU goes along with any."""
    tensors = [*_tensors(args), *_tensors(made)]
    return len({each.device for each in tensors if each.ndim or not each.is_cpu}) > 1


def _tensors(values: Any) -> list[Tensor]:
    return [each for each in tree_flatten(values)[0] if isinstance(each, Tensor)]


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
            if taken == WARM_UP - 1:
                return self._watched(step, x, y, kind)
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

    def _watched(self, step: Step, x: Tensor, y: Tensor, kind: Hashable) -> StepResult:
        """Take a step, and see whether the next of its kind can be recorded."""
        watch = Watch()
        with watch, trusting_labels():
            done, waits = self._recorder.waits(lambda: step(x, y))
        found = [*watch.noted, *waits]
        if found:
            self._recordings[kind] = None
            warnings.warn(
                "these steps are trained without a CUDA graph: a module or a loss term looks at"
                " values on the way (.item(), a comparison in an if, a mask as an index) or brings"
                f" tensors from the CPU, in {', '.join(found)}; change it, or leave"
                " --train.cuda-graph out",
                stacklevel=2,
            )
        return done

    def _record(self, step: Step, x: Tensor, y: Tensor) -> Recording | None:
        if sum(each is not None for each in self._recordings.values()) == MOST_KINDS:
            return None
        batch = x.clone(), y.clone()
        try:
            with trusting_labels():
                done, replay = self._recorder.record(lambda: step(*batch))
        except RuntimeError as error:
            # What ends the recording only says that something failed before.
            cause = error.__context__ or error
            first = (str(cause).strip() or repr(cause)).splitlines()[0]
            raise DivtrainError(
                f"this step cannot be recorded into a CUDA graph: {first}; give the command again"
                " without --train.cuda-graph, it goes on from the last saved state, if there is one"
            ) from error
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
