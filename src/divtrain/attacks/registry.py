"""Attacks by name: the paper's five with the paper's parameters, and stronger ones."""

from collections.abc import Callable
from typing import cast, get_args

from divtrain.attacks.apgd import APGD, APGDT
from divtrain.attacks.attack import Attack, LinfAttack
from divtrain.attacks.external import EXTERNAL, build_external
from divtrain.attacks.fgsm import FGSM, RFGSM, ReversedFGSM
from divtrain.attacks.ifgsm import IFGSM, MIFGSM
from divtrain.attacks.iterative import IterativeAttack
from divtrain.attacks.noise import RandomNoise
from divtrain.attacks.objectives import ObjectiveName
from divtrain.attacks.pgd import PGD
from divtrain.attacks.pgd_cw import PGDCW
from divtrain.attacks.search import SearchAttack
from divtrain.attacks.square import Square
from divtrain.errors import DivtrainError, unknown_name

ATTACKS: dict[str, type[IterativeAttack]] = {
    "fgsm": FGSM,
    "rfgsm": RFGSM,
    "ifgsm": IFGSM,
    "mifgsm": MIFGSM,
    "pgdcw": PGDCW,
}
"""The paper's."""

STRONGER: dict[str, type[LinfAttack]] = {
    "pgd": PGD,
    "apgd": APGD,
    "apgdt": APGDT,
    "square": Square,
}
"""What a sceptical reviewer adds."""

PROBES: dict[str, type[LinfAttack]] = {"noise": RandomNoise, "reversed": ReversedFGSM}
"""What should fool nobody: every attack must beat the one, and nobody should fall to the other."""

FIXED_OBJECTIVE = ("apgdt", "square", "noise", *EXTERNAL)


def build_attack(
    name: str,
    eps: float,
    *,
    steps: int | None = None,
    restarts: int | None = None,
    white_box: bool = False,
) -> Attack:
    """Return the named attack at radius `eps` with its default parameters (the paper's, if its).

    ``NAME:OBJECTIVE`` chooses another objective, e.g. ``mifgsm:ce_of_mean_logit``.

    Args:
        name: One of fgsm, rfgsm, ifgsm, mifgsm, pgdcw; pgd, apgd, apgdt, square; noise,
            reversed; nifgsm, difgsm, tifgsm, vmifgsm (from torchattack); autoattack.
        eps: Radius in [0, 1] pixel units.
        steps: Steps (square: queries), for those that have them; None for the default.
        restarts: Runs of pgd, apgd, apgdt and square; None for the default.
        white_box: Whether the model attacked is also the target, so that pgd, apgd, apgdt and
            square may leave an image alone once it is fooled.

    Raises:
        DivtrainError: for an unknown name (the nearest are offered), a bad eps or option, or a
            library that is not installed.

    >>> build_attack("mifgsm", eps=0.1)
    MIFGSM(eps=0.1, objective='mean_member_ce', steps=10, step_size=None, decay=1.0)
    """
    name, _, objective = name.partition(":")
    known = (*ATTACKS, *STRONGER, *PROBES, *EXTERNAL)
    if name not in known:
        raise unknown_name("attack", name, known)
    if objective and objective not in get_args(ObjectiveName):
        raise unknown_name("objective", objective, get_args(ObjectiveName))
    if objective and name in FIXED_OBJECTIVE:
        raise DivtrainError(f"{name} has no choice of objective; leave out ':{objective}'")
    if name in EXTERNAL:
        if steps is not None or restarts is not None:
            raise DivtrainError(
                f"{name} does not take steps or restarts here; give them through an Adapter"
            )
        return build_external(name, eps)
    given = {"objective": objective or None, "steps": steps, "restarts": restarts}
    chosen = {key: value for key, value in given.items() if value is not None}
    kind: type[LinfAttack] = {**ATTACKS, **STRONGER, **PROBES}[name]
    if issubclass(kind, SearchAttack):
        chosen["stop_when_fooled"] = white_box
    try:
        return cast(Callable[..., LinfAttack], kind)(eps=eps, **chosen)
    except TypeError as error:
        raise DivtrainError(f"{name} does not take {' and '.join(chosen)}: {error}") from error
