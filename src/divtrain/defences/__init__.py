"""Ways to train an ensemble: each is a list of loss terms and a list of views of the images."""

from divtrain.defences.adp import ADP, PredictionDiversity
from divtrain.defences.adv import Adv, AdvDiv, AdversarialStep
from divtrain.defences.base import Base, BaseNoise, Defence
from divtrain.defences.deg import DEG, CosineSum
from divtrain.defences.detector import Detector
from divtrain.defences.div import Div
from divtrain.defences.label_smoothing import LabelSmoothing
from divtrain.defences.registry import DEFENCES, build_defence
from divtrain.defences.terms import CrossEntropy, GradientAlignment, Term
from divtrain.defences.trs import TRSL2, AbsoluteCosine, GradientNorm
from divtrain.defences.views import Adversarial, AdversarialLeastLikely, Clean, Noisy

__all__ = [
    "ADP",
    "DEFENCES",
    "DEG",
    "TRSL2",
    "AbsoluteCosine",
    "Adv",
    "AdvDiv",
    "Adversarial",
    "AdversarialLeastLikely",
    "AdversarialStep",
    "Base",
    "BaseNoise",
    "Clean",
    "CosineSum",
    "CrossEntropy",
    "Defence",
    "Detector",
    "Div",
    "GradientAlignment",
    "GradientNorm",
    "LabelSmoothing",
    "Noisy",
    "PredictionDiversity",
    "Term",
    "build_defence",
]
