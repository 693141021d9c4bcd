"""Ways to train an ensemble: each is a list of loss terms and a list of views of the images."""

from divtrain.defences.adp import ADP, PredictionDiversity
from divtrain.defences.adv import Adv, AdvDiv
from divtrain.defences.base import Base, BaseNoise, Defence
from divtrain.defences.crafted import Crafted
from divtrain.defences.crafters import Crafter, Moment
from divtrain.defences.cross import Cross, CrossDiv, CrossNoise
from divtrain.defences.deg import DEG, CosineSum
from divtrain.defences.detector import Detector
from divtrain.defences.div import Div
from divtrain.defences.dverge import DVERGE
from divtrain.defences.fast_at import FastAT
from divtrain.defences.label_smoothing import LabelSmoothing
from divtrain.defences.pgd_at import PGDAT, PGDATDiv, PGDATNoise
from divtrain.defences.registry import DEFENCES, build_defence
from divtrain.defences.terms import CrossEntropy, GradientAlignment, Term
from divtrain.defences.trs import TRS, TRSL2, AbsoluteCosine, GradientNorm
from divtrain.defences.views import (
    Adversarial,
    AdversarialLabel,
    Clean,
    Noisy,
)

__all__ = [
    "ADP",
    "DEFENCES",
    "DEG",
    "DVERGE",
    "PGDAT",
    "TRS",
    "TRSL2",
    "AbsoluteCosine",
    "Adv",
    "AdvDiv",
    "Adversarial",
    "AdversarialLabel",
    "Base",
    "BaseNoise",
    "Clean",
    "CosineSum",
    "Crafted",
    "Crafter",
    "Cross",
    "CrossDiv",
    "CrossEntropy",
    "CrossNoise",
    "Defence",
    "Detector",
    "Div",
    "FastAT",
    "GradientAlignment",
    "GradientNorm",
    "LabelSmoothing",
    "Moment",
    "Noisy",
    "PGDATDiv",
    "PGDATNoise",
    "PredictionDiversity",
    "Term",
    "build_defence",
]
