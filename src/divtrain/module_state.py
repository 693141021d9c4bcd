"""A model's mode and device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Context with `model` in eval mode; afterwards each submodule is in its former mode.

    Modes are changed by each module's own `train`, which may do more: some layers merge weights.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        _restore(model, modes)


def _restore(module: nn.Module, modes: dict[nn.Module, bool]) -> None:
    training = modes.get(module, module.training)
    mixed = any(modes.get(each, training) != training for each in module.modules())
    if mixed and type(module).train is nn.Module.train:
        module.training = training  # `train` would change the mode of some inside twice
    else:
        module.train(training)
    if mixed:
        for child in module.children():
            _restore(child, modes)


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's parameters; the CPU if it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
