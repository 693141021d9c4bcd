"""The paper's five attacks by name, with the paper's parameters."""

from typing import cast, get_args

from divtrain.attacks.fgsm import FGSM, RFGSM
from divtrain.attacks.ifgsm import IFGSM, MIFGSM
from divtrain.attacks.iterative import IterativeAttack
from divtrain.attacks.objectives import ObjectiveName
from divtrain.attacks.pgd_cw import PGDCW
from divtrain.errors import unknown_name

ATTACKS: dict[str, type[IterativeAttack]] = {
    "fgsm": FGSM,
    "rfgsm": RFGSM,
    "ifgsm": IFGSM,
    "mifgsm": MIFGSM,
    "pgdcw": PGDCW,
}


def build_attack(name: str, eps: float) -> IterativeAttack:
    """Return the named attack at radius `eps` with the paper's other parameters.

    ``NAME:OBJECTIVE`` chooses another objective, e.g. ``mifgsm:ce_of_mean_logit``.

    Raises:
        DivtrainError: for an unknown name (the nearest are offered) or a bad eps.

    >>> build_attack("mifgsm", eps=0.1)
    MIFGSM(eps=0.1, objective='mean_member_ce', steps=10, step_size=None, decay=1.0)
    """
    name, _, objective = name.partition(":")
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    if not objective:
        return ATTACKS[name](eps=eps)
    if objective not in get_args(ObjectiveName):
        raise unknown_name("objective", objective, get_args(ObjectiveName))
    return ATTACKS[name](eps=eps, objective=cast(ObjectiveName, objective))
