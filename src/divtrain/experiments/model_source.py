"""Existing models: a checkpoint of divtrain's, or anything importable."""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from divtrain.attacks.attack import frozen_in_eval_mode
from divtrain.data import Images
from divtrain.errors import DivtrainError
from divtrain.evaluation import as_module, try_gradient
from divtrain.experiments.stage import OWN_SEED
from divtrain.importing import NAMED, calling, import_named
from divtrain.logits import ask
from divtrain.module_state import device_of
from divtrain.training import load_ensemble


@dataclass(frozen=True)
class ModelSource:
    """An existing model.

    Attributes:
        name: What records call it.
        where: Where it came from: a path, or MODULE:NAME.
        model: The model, in eval mode, on the CPU.
        about: What its checkpoint says about it; empty for imported ones.
        digest: SHA-256 of its weights.
    """

    name: str
    where: str
    model: nn.Module
    about: dict[str, Any]
    digest: str

    @property
    def own_seed(self) -> int | None:
        """Seed that its initial weights were drawn from, where its checkpoint says so."""
        spec = self.about.get("spec")
        found = spec.get(OWN_SEED) if isinstance(spec, dict) else None
        return found if isinstance(found, int) else None


def is_source(word: str) -> bool:
    """Whether a word names a file or something importable, rather than a recipe."""
    return bool(NAMED.fullmatch(word)) or word.endswith(".safetensors") or Path(word).is_file()


def open_model(name: str, word: str) -> ModelSource:
    """Load a checkpoint, or import MODULE:NAME: a model, or a function that returns one.

    A function that needs no argument is called for the model; one that does is the model, images to
    logits. See `divtrain.evaluation.as_module` for what a model may be.

    Raises:
        DivtrainError: when there is no such thing, or it is no model.
    """
    if Path(word).is_dir():
        some = next(iter(sorted(Path(word).glob("stages/train-*/ensemble.safetensors"))), None)
        which = f"such as {some}" if some else "ensemble.safetensors"
        raise DivtrainError(f"{word} is a folder; name a checkpoint in it, {which}")
    if NAMED.fullmatch(word) and not Path(word).exists():
        model, about = _import(word), {}
    else:
        try:
            model, about = load_ensemble(word)
        except DivtrainError as error:
            raise type(error)(
                f"{error}. Any other model goes by the name of a function that returns it,"
                " MODULE:ATTRIBUTE"
            ) from error
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return ModelSource(name, word, model.eval(), about, weights_digest(model))


def _import(word: str) -> nn.Module:
    found = import_named("model", word)
    if isinstance(found, type) or (_is_function(found) and not _takes_images(found)):
        with calling("model", word):
            found = found()
    try:
        return as_module(found)
    except DivtrainError as error:
        raise DivtrainError(f"{word}: {error}") from error


def _is_function(found: object) -> bool:
    return callable(found) and not isinstance(found, (nn.Module, ExportedProgram))


def _takes_images(function: Callable[..., object]) -> bool:
    """Whether a function has an argument that must be given; also where nothing can be told."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of one that is not written in Python
        return True
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(it.default is it.empty and it.kind not in variable for it in parameters)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of a model's structure, weights and buffers, packed ones of quantised layers too."""
    digest = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        for each in value if isinstance(value, tuple) else (value,):
            digest.update(f"{name} ".encode())
            if isinstance(each, Tensor):
                digest.update(_bytes_of(each))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> bytes:
    """Shape, type and values of a tensor; of a quantised one the values it stands for."""
    whole = tensor.detach().cpu()
    whole = (whole.dequantize() if whole.is_quantized else whole).contiguous()
    about = f"{tuple(tensor.shape)} {tensor.dtype}".encode()
    return about + whole.flatten().view(torch.uint8).numpy().tobytes()


def behaviour_digest(model: nn.Module, images: Images) -> str:
    """Hash of what a model does to a few images, answers and input gradients, to three digits.

    Tells apart models of the same weights whose code or attributes differ, which no hash of the
    weights can. Random choices inside are drawn from a fixed seed.
    """
    device = device_of(model)
    x = images.x[:8].to(device)
    digest = hashlib.sha256()
    with torch.random.fork_rng(), torch.enable_grad(), frozen_in_eval_mode(model):
        torch.manual_seed(0)
        with torch.no_grad():
            parts = [ask(model, x)]
        gradient, _ = try_gradient(lambda seen: ask(model, seen).amax(1), x)
        parts += [] if gradient is None else [gradient]
    for part in parts:
        digest.update(" ".join(f"{value:.3g}" for value in part.flatten().tolist()).encode())
    return digest.hexdigest()[:16]
