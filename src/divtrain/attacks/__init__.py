"""The paper's five attacks over one loop, and the objectives they maximise."""

from divtrain.attacks.fgsm import FGSM, RFGSM
from divtrain.attacks.ifgsm import IFGSM, MIFGSM
from divtrain.attacks.iterative import IterativeAttack, input_gradient
from divtrain.attacks.objectives import Objective, ObjectiveName, make_objective, margin
from divtrain.attacks.pgd_cw import PGDCW
from divtrain.attacks.registry import ATTACKS, build_attack

__all__ = [
    "ATTACKS",
    "FGSM",
    "IFGSM",
    "MIFGSM",
    "PGDCW",
    "RFGSM",
    "IterativeAttack",
    "Objective",
    "ObjectiveName",
    "build_attack",
    "input_gradient",
    "make_objective",
    "margin",
]
