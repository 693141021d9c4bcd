"""What is no plain module, as one: TorchScript, exported programs, functions of images."""

from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from divtrain.errors import DivtrainError

Model = nn.Module | ExportedProgram | Callable[[Tensor], Tensor]
"""From images in [0, 1], (batch, channel, height, width), to logits, (batch, class)."""


def as_module(model: Model) -> nn.Module:
    """Return a model as a module that is called, counted, moved and put in eval mode as any other.

    A plain module is returned as it is. What is wrapped:

    * a TorchScript module, scripted, traced or loaded;
    * a `torch.export.ExportedProgram`, or the module it makes: it keeps the mode it was exported
      in, and its device. One exported for a single batch size is given images in batches of it,
      the last one filled up with its last image;
    * any other callable of images, such as a function, a session of another runtime, or a client
      of a service. It may return a numpy array. Its device, and the mode of whatever it calls, are
      its own affair: it is given images on the CPU.

    Raises:
        DivtrainError: for what cannot be called, and for a class instead of a model.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return WrappedModel(model)
    if isinstance(model, ExportedProgram):
        model = model.module()
    if is_exported(model):
        return _ExportedModel(model)
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, type) or not callable(model):
        came = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise DivtrainError(
            f"expected a model, a torch.nn.Module or a function from images to logits, got {came}"
        )
    return WrappedModel(model)


def is_exported(model: object) -> TypeGuard[GraphModule]:
    """Whether this is what `ExportedProgram.module` makes: it refuses a change of mode."""
    return isinstance(model, GraphModule) and "train" in vars(model)


class WrappedModel(nn.Module):
    """Any callable of images, behind a module of ours; a module keeps its own modes and weights."""

    def __init__(self, call: Callable[[Tensor], Any]):
        super().__init__()
        self.call = call
        self.called = "" if isinstance(call, nn.Module) else _name_of(call)

    def extra_repr(self) -> str:
        """The name of the function; never its address."""
        return self.called

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's answer."""
        answer = self.call(x)
        return torch.from_numpy(answer) if isinstance(answer, np.ndarray) else answer


class _ExportedModel(nn.Module):
    """An exported program, whose modules know no modes and must not be moved to another device."""

    def __init__(self, program: GraphModule):
        super().__init__()
        self.batch = _batch_size(program)
        self.weights = nn.ParameterList(program.parameters())  # the same: frozen with this module
        self._call = (program,)  # in a tuple, as none of this module's own modules

    def extra_repr(self) -> str:
        """The batch size it was exported for, and its graph."""
        return f"batch={self.batch}, graph={self._call[0].graph}"

    def _apply(self, fn: Any, recurse: bool = True) -> "_ExportedModel":
        del fn, recurse
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the program's answer."""
        (program,), size = self._call, self.batch
        if size is None or len(x) == size:
            return program(x)
        answers: list[Tensor] = []
        for some in x.split(size):
            missing = size - len(some)
            filled = torch.cat([some, some[-1:].expand(missing, *some.shape[1:])])
            answers.append(program(filled)[: len(some)])
        return torch.cat(answers)


def _batch_size(program: GraphModule) -> int | None:
    """The batch size that a program is bound to; None if it takes any."""
    inputs = (node for node in program.graph.nodes if node.op == "placeholder")
    example = next(inputs).meta.get("val")
    size = example.shape[0] if isinstance(example, Tensor) and example.ndim else None
    return size if isinstance(size, int) else None


def _name_of(call: Callable[..., Any]) -> str:
    of = call if hasattr(call, "__qualname__") else type(call)
    return f"{of.__module__}:{of.__qualname__}"
