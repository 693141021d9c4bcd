"""Attacks of other libraries: any callable (x, y) on a model, and a few by name."""

import importlib
import importlib.metadata
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from divtrain.attacks.attack import Family, frozen_in_eval_mode
from divtrain.checks import check_eps, check_images, check_label_shape
from divtrain.errors import DivtrainError, first_line
from divtrain.logits import ask

OnImages = Callable[[Tensor, Tensor], Tensor]
"""Images (batch, channel, height, width) in [0, 1] and labels (batch,) to adversarial examples."""


@dataclass(frozen=True)
class Adapter:
    """An attack of another library, with divtrain's interface.

    What it returns is not trusted: the evaluator clips it into the ball, counts what it had to
    clip, and takes the clean image where it is not finite. Random choices inside it follow the
    global generators of torch, numpy and Python, which are seeded from `generator` for the call
    and restored afterwards.

    Attributes:
        name: What records and reports call it.
        eps: Radius of the L-infinity ball it was given, in [0, 1] pixel units.
        make: Builds it for a model: returns a callable (x, y) -> adversarial examples.
        version: Of the library, for the record.

    >>> flip = Adapter("flip", eps=1.0, make=lambda model: lambda x, y: 1 - x)
    >>> flip(nn.Identity(), torch.zeros(1, 1, 1, 1), torch.tensor([0]))
    tensor([[[[1.]]]])
    """

    name: str
    eps: float
    make: Callable[[nn.Module], OnImages]
    version: str = ""

    def __post_init__(self) -> None:
        """Check the parameters."""
        check_eps(self.eps)

    def spec(self) -> dict[str, Any]:
        """Return what tells it from others, see `divtrain.identity`: not `make`, but its name."""
        return {"kind": "Adapter", "name": self.name, "eps": self.eps, "version": self.version}

    def __repr__(self) -> str:
        """Name, radius and version: the same in every process."""
        version = f", version={self.version!r}" if self.version else ""
        return f"Adapter(name={self.name!r}, eps={self.eps!r}{version})"

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Craft adversarial examples; the model is in eval mode and restored afterwards.

        Raises:
            DivtrainError: for bad images or labels, or when something else than images came back.
        """
        check_images(x)
        check_label_shape(y, len(x))
        device = x.device if generator is None else generator.device
        seed = int(torch.randint(2**31, (), generator=generator, device=device))
        whole = _Whole(model) if isinstance(model, nn.Sequential) else model
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            _seeded(seed),
            frozen_in_eval_mode(whole),
        ):
            try:
                x_adv = self.make(whole)(x.detach().clone(), y.clone())
            except (ImportError, DivtrainError):  # a missing library is no failure of the attack
                raise
            except Exception as error:  # somebody else's code: it may raise anything
                raise DivtrainError(
                    f"{self.name} failed on images of shape {tuple(x.shape)}:"
                    f" {type(error).__name__}: {first_line(error)}"
                ) from error
        if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
            came = tuple(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
            raise DivtrainError(
                f"expected {self.name} to return images of shape {tuple(x.shape)}, got {came}"
            )
        return x_adv.detach().to(x.device, x.dtype)


class _Whole(nn.Module):
    """Wrapper that hides a model's layers: some libraries take a Sequential apart."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return ask(self.model, x)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Context in which every global source of randomness starts from `seed`; then all restored."""
    plain, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(arrays)


@dataclass(frozen=True)
class ExternalAttack:
    """An attack of another library that is known by name, with that library's defaults.

    Attributes:
        name: Its name here.
        title: What reports call it.
        module: The library; it need not be installed.
        kind: Its class there.
        run: Given the class, a model and eps, returns a callable (x, y) -> adversarial examples.
        install: How to get the library.
        channels: Channels of the only images it takes; None for any.
    """

    name: str
    title: str
    module: str
    kind: str
    run: Callable[[Any, nn.Module, float], OnImages]
    install: str
    channels: int | None = None

    family: ClassVar[Family] = "iterative"
    budgeted: ClassVar[Mapping[str, str]] = {}
    fixed_objective: ClassVar[bool] = True

    def __call__(self, *, eps: float) -> Adapter:
        """Return the attack at a radius.

        Raises:
            DivtrainError: when the library is not installed, saying how to get it.
        """
        try:
            kind = getattr(importlib.import_module(self.module), self.kind)
        except ImportError as error:
            raise DivtrainError(
                f"attack {self.name!r} comes from {self.module}, which cannot be imported here:"
                f" {self.install}"
            ) from error
        return Adapter(
            self.name, eps, lambda model: self.run(kind, model, eps), _version(self.module)
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _torchattack(kind: Any, model: nn.Module, eps: float) -> OnImages:
    def attack(x: Tensor, y: Tensor) -> Tensor:
        return kind(model, normalize=None, device=x.device, eps=eps)(x, y)

    return attack


def _autoattack(kind: Any, model: nn.Module, eps: float) -> OnImages:
    def attack(x: Tensor, y: Tensor) -> Tensor:
        made = kind(
            model, norm="Linf", eps=eps, seed=torch.initial_seed() % 2**31, version="standard",
            device=x.device,
        )  # fmt: skip
        with torch.no_grad():
            classes = ask(model, x[:1]).shape[1]
        if classes < 4:
            raise DivtrainError(
                f"autoattack needs at least 4 classes, got {classes}, since its targeted loss"
                " compares the first four; use apgd and square"
            )
        made.apgd_targeted.n_target_classes = made.fab.n_target_classes = min(9, classes - 1)
        return made.run_standard_evaluation(x, y, batch_size=len(x))[0]

    return attack


def _of_torchattack(name: str, title: str, channels: int | None = None) -> ExternalAttack:
    kind, how = name.upper(), INSTALL.format("torchattack")
    return ExternalAttack(name, title, "torchattack", kind, _torchattack, how, channels)


INSTALL = "pip install --editable '.[{}]' in a clone"

EXTERNAL = {
    each.name: each
    for each in (
        _of_torchattack("nifgsm", "NI-FGSM"),
        _of_torchattack("difgsm", "DI-FGSM"),
        _of_torchattack("tifgsm", "TI-FGSM", channels=3),
        _of_torchattack("vmifgsm", "VMI-FGSM"),
        ExternalAttack(
            "autoattack", "AutoAttack", "pyautoattack", "AutoAttack", _autoattack,
            INSTALL.format("autoattack"),
        ),
    )
}  # fmt: skip
"""By name."""
