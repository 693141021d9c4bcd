"""What a CUDA graph does to a step, on any device: a tape of its operations, played on its memory.

As while a CUDA graph is recorded, no value may be looked at, and what is recorded has no effect:
only playing has. The operations, their order, their memory and their arguments are fixed, so a step
that a tape takes rightly is one that a CUDA graph can hold.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from divtrain.training import StepResult
from divtrain.training.devices import OneDevice

LOOKS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "item")


class Tape(TorchDispatchMode):
    """Operations with their arguments and the memory of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.played = 0
        self._operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        mask = name == "index" and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if name in LOOKS or mask:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        made = func(*args, **(kwargs or {}))
        if not func.is_view:
            self._operations.append((func, args, kwargs or {}, made))
        return made

    def play(self) -> None:
        """Compute everything anew, into the same memory."""
        self.played += 1
        with torch.no_grad():
            for func, args, kwargs, made in self._operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_flatten(made)[0], tree_flatten(again)[0], strict=True):
                    if isinstance(old, Tensor) and old is not new:
                        assert old.stride() == new.stride()
                        old.copy_(new)


class TapeRecorder:
    """A `divtrain.training.cuda_graph.Recorder`; recording leaves the module as it was."""

    def __init__(self, module: nn.Module):
        self._module = module
        self.tapes: list[Tape] = []

    def apart(self, step: Callable[[], StepResult]) -> StepResult:
        return step()

    def waits(self, step: Callable[[], StepResult]) -> tuple[StepResult, list[str]]:
        return step(), []

    def record(self, step: Callable[[], StepResult]) -> tuple[StepResult, Callable[[], None]]:
        tape = Tape()
        before = {name: tensor.clone() for name, tensor in self._module.state_dict().items()}
        random = torch.get_rng_state()
        with tape:
            done = step()
        self._module.load_state_dict(before)
        torch.set_rng_state(random)
        self.tapes.append(tape)
        return done, tape.play


@contextmanager
def tapes_for_cuda_graphs() -> Iterator[list[TapeRecorder]]:
    """Context in which `train` records on tapes, on any device; yields the recorders it makes."""
    made: list[TapeRecorder] = []
    record_with = OneDevice.record_with

    def record(self: OneDevice, recorder: Any) -> None:
        made.append(TapeRecorder(self._ens))
        record_with(self, made[-1])

    with (
        mock.patch("divtrain.training.devices.check_cuda_graph"),
        mock.patch("divtrain.training.devices.CudaRecorder"),
        mock.patch.object(OneDevice, "record_with", record),
    ):
        yield made
