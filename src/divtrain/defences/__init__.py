"""Ways to train an ensemble: each is a list of loss terms and a list of views of the images."""

from divtrain.defences.adv import Adv, AdvDiv
from divtrain.defences.base import Base, BaseNoise, Defence
from divtrain.defences.crafted import Crafted
from divtrain.defences.crafters import Crafter, Moment
from divtrain.defences.cross import Cross, CrossDiv, CrossNoise
from divtrain.defences.detector import Detector
from divtrain.defences.div import Div
from divtrain.defences.dverge import DVERGE
from divtrain.defences.pgd_at import PGDAT, PGDATDiv, PGDATNoise
from divtrain.defences.registry import DEFENCES, build_defence
from divtrain.defences.terms import CrossEntropy, GradientAlignment, Term
from divtrain.defences.views import Adversarial, AdversarialLabel, Clean, Noisy

__all__ = [
    "DEFENCES",
    "DVERGE",
    "PGDAT",
    "Adv",
    "AdvDiv",
    "Adversarial",
    "AdversarialLabel",
    "Base",
    "BaseNoise",
    "Clean",
    "Crafted",
    "Crafter",
    "Cross",
    "CrossDiv",
    "CrossEntropy",
    "CrossNoise",
    "Defence",
    "Detector",
    "Div",
    "GradientAlignment",
    "Moment",
    "Noisy",
    "PGDATDiv",
    "PGDATNoise",
    "Term",
    "build_defence",
]
