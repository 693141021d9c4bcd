"""A model's mode, device and tensors."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from divtrain.errors import DivtrainError


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Context with `model` in eval mode; afterwards each submodule is in its former mode.

    Modes are changed by each module's own `train`, which may do more: some layers merge weights.
    """
    # Frozen TorchScript has no mode.
    modes = {each: each.training for each in model.modules() if hasattr(each, "training")}
    try:
        model.eval()
        yield
    finally:
        _restore(model, modes)


def _restore(module: nn.Module, modes: dict[nn.Module, bool]) -> None:
    training = modes.get(module)
    if training is None:
        return
    mixed = any(modes.get(each, training) != training for each in module.modules())
    if mixed and type(module).train is nn.Module.train:
        module.training = training  # `train` would change the mode of some inside twice
    else:
        module.train(training)
    if mixed:
        for child in module.children():
            _restore(child, modes)


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights, running statistics and other buffers of a model by name, for a file of tensors.

    Raises:
        DivtrainError: when its state holds something else.
    """
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise DivtrainError(
                f"expected a model whose state is made of tensors, got {type(value).__name__} for"
                f" {name}: safetensors files hold nothing else, and divtrain never pickles. Keep"
                " it with torch.save(model.state_dict(), path), and train it without a state_file"
            )
    return state


def device_of(model: nn.Module) -> torch.device:
    """Device of the model's parameters; the CPU if it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
