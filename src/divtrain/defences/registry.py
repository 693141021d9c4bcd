"""The defences by name. A new one is a file here and a line in `DEFENCES`."""

from dataclasses import fields
from typing import Any

from divtrain.defences.adp import ADP
from divtrain.defences.adv import Adv, AdvDiv
from divtrain.defences.base import Base, BaseNoise, Defence
from divtrain.defences.cross import Cross, CrossDiv, CrossNoise
from divtrain.defences.deg import DEG
from divtrain.defences.detector import Detector
from divtrain.defences.div import Div
from divtrain.defences.dverge import DVERGE
from divtrain.defences.fast_at import FastAT
from divtrain.defences.label_smoothing import LabelSmoothing
from divtrain.defences.pgd_at import PGDAT, PGDATDiv, PGDATNoise
from divtrain.defences.terms import Term
from divtrain.defences.trs import TRS, TRSL2
from divtrain.errors import DivtrainError, unknown_name
from divtrain.importing import calling, import_named

DEFENCES: dict[str, type[Defence]] = {
    "base": Base,
    "base+noise": BaseNoise,
    "div": Div,
    "adv": Adv,
    "adv+div": AdvDiv,
    "detector": Detector,
    "fast-at": FastAT,
    "pgd-at": PGDAT,
    "pgd-at+noise": PGDATNoise,
    "pgd-at+div": PGDATDiv,
    "cross": Cross,
    "cross+noise": CrossNoise,
    "cross+div": CrossDiv,
    "dverge": DVERGE,
    "adp": ADP,
    "deg": DEG,
    "trs-l2": TRSL2,
    "trs": TRS,
    "label-smoothing": LabelSmoothing,
}


def build_defence(name: str, **settings: Any) -> Defence:
    """Build the named defence from those of the settings that it has; the others are ignored.

    Args:
        name: A name in `DEFENCES`, or ``module:attribute`` of another class.
        settings: Values for fields of the defence, such as ``gal_weight``; None: default.

    Raises:
        DivtrainError: for an unknown name, a module that cannot be imported, something that is no
            defence, or one that cannot be built from these settings.

    >>> build_defence("base+noise", noise=0.1, gal_weight=2.0)
    BaseNoise(noise=0.1)
    """
    kind = _import(name) if ":" in name else DEFENCES.get(name)
    if kind is None:
        raise unknown_name("defence", name, [*DEFENCES, "module:attribute"])
    known = {each.name for each in fields(kind)}
    with calling("defence", name):
        chosen = {field: value for field, value in settings.items() if value is not None}
        made = kind(**{field: value for field, value in chosen.items() if field in known})
        for term in made.terms:
            if not isinstance(term, Term):
                raise DivtrainError(
                    f"defence {name!r}: expected terms with gradients_at(step) and a call of"
                    f" (forward, step), got {term!r}; see divtrain.defences.terms.Term"
                )
        return made


def _import(name: str) -> type[Defence]:
    found = import_named("defence", name)
    if not (isinstance(found, type) and issubclass(found, Defence)):
        raise DivtrainError(
            f"expected {name!r} to be a class that inherits from divtrain.defences.Defence, got"
            f" {found!r}"
        )
    return found
