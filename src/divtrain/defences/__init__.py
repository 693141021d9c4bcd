"""Ways to train an ensemble: each is a list of loss terms and a list of views of the images."""

from divtrain.defences.adv import Adv, AdvDiv, AdversarialStep
from divtrain.defences.base import Base, BaseNoise, Defence
from divtrain.defences.detector import Detector
from divtrain.defences.div import Div
from divtrain.defences.registry import DEFENCES, build_defence
from divtrain.defences.terms import CrossEntropy, GradientAlignment, Term
from divtrain.defences.views import Adversarial, AdversarialLeastLikely, Clean, Noisy

__all__ = [
    "DEFENCES",
    "Adv",
    "AdvDiv",
    "Adversarial",
    "AdversarialLeastLikely",
    "AdversarialStep",
    "Base",
    "BaseNoise",
    "Clean",
    "CrossEntropy",
    "Defence",
    "Detector",
    "Div",
    "GradientAlignment",
    "Noisy",
    "Term",
    "build_defence",
]
