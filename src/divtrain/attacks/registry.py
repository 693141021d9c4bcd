"""The paper's five attacks by name, with the paper's parameters."""

from divtrain.attacks.fgsm import FGSM, RFGSM
from divtrain.attacks.ifgsm import IFGSM, MIFGSM
from divtrain.attacks.iterative import IterativeAttack
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

    Raises:
        DivtrainError: for an unknown name (the nearest are offered) or a bad eps.

    >>> build_attack("mifgsm", eps=0.1)
    MIFGSM(eps=0.1, objective='mean_member_ce', steps=10, step_size=None, decay=1.0)
    """
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    return ATTACKS[name](eps=eps)
