"""divtrain: train ensembles whose members do not fail together, and measure it honestly.

Kariyappa and Qureshi, "Improving Adversarial Robustness of Ensembles with Diversity Training",
arXiv 1901.09981 (2019).
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from divtrain.version import __version__

if TYPE_CHECKING:
    from divtrain import analysis, attacks, data, defences, evaluation, models, training
    from divtrain.cross_entropy import cross_entropy
    from divtrain.ensemble import Ensemble
    from divtrain.errors import DivtrainError
    from divtrain.forward import Batch, MemberPass, Where, member_pass
    from divtrain.gal import (
        coherence,
        diversity_loss,
        gradient_alignment_loss,
        input_gradients,
        pairwise_cosine,
    )
    from divtrain.normalised import normalised
    from divtrain.training import load_ensemble, load_weights, save_ensemble

__all__ = [
    "Batch",
    "DivtrainError",
    "Ensemble",
    "MemberPass",
    "Where",
    "__version__",
    "analysis",
    "attacks",
    "coherence",
    "cross_entropy",
    "data",
    "defences",
    "diversity_loss",
    "evaluation",
    "gradient_alignment_loss",
    "input_gradients",
    "load_ensemble",
    "load_weights",
    "member_pass",
    "models",
    "normalised",
    "pairwise_cosine",
    "save_ensemble",
    "training",
]

_HOME = {
    "Ensemble": "ensemble",
    "DivtrainError": "errors",
    "cross_entropy": "cross_entropy",
    "normalised": "normalised",
    **dict.fromkeys(("Batch", "MemberPass", "Where", "member_pass"), "forward"),
    **dict.fromkeys(("load_ensemble", "load_weights", "save_ensemble"), "training"),
    **dict.fromkeys(
        ("coherence", "diversity_loss", "gradient_alignment_loss",
         "input_gradients", "pairwise_cosine"),
        "gal",
    ),
}  # fmt: skip
"""The module of each public name that is no module itself."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: importing divtrain, or asking for help, is quick.

    Raises:
        AttributeError: for another name.
    """
    if name not in __all__:
        raise AttributeError(f"module 'divtrain' has no attribute {name!r}")
    home = _HOME.get(name)
    found = import_module(f"divtrain.{home or name}")
    value = found if home is None else getattr(found, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps names of functions the functions, where their modules have the same names."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in ("cross_entropy", "normalised") and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
