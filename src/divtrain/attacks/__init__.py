"""The paper's five attacks over one loop, stronger ones over another, and their objectives."""

from divtrain.attacks.apgd import APGD, APGDT
from divtrain.attacks.attack import Attack, Family, LinfAttack
from divtrain.attacks.external import Adapter
from divtrain.attacks.iterative import IterativeAttack, input_gradient
from divtrain.attacks.noise import RandomNoise
from divtrain.attacks.objectives import (
    ModelObjective,
    Objective,
    ObjectiveName,
    dlr,
    make_objective,
    margin,
    reweighted,
)
from divtrain.attacks.papers import FGSM, IFGSM, MIFGSM, PGDCW, RFGSM, PGDCWTenth, ReversedFGSM
from divtrain.attacks.pgd import PGD
from divtrain.attacks.registry import (
    ATTACKS,
    attack_name,
    attack_title,
    build_attack,
    find_attack,
)
from divtrain.attacks.search import SearchAttack
from divtrain.attacks.square import Square

__all__ = [
    "APGD", "APGDT", "ATTACKS", "FGSM", "IFGSM", "MIFGSM", "PGD", "PGDCW", "RFGSM", "Adapter",
    "Attack", "Family", "IterativeAttack", "LinfAttack", "ModelObjective", "Objective",
    "ObjectiveName", "PGDCWTenth", "RandomNoise", "ReversedFGSM", "SearchAttack", "Square",
    "attack_name", "attack_title", "build_attack", "dlr", "find_attack", "input_gradient",
    "make_objective", "margin", "reweighted",
]  # fmt: skip
