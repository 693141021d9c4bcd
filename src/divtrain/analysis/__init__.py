"""An ensemble from inside: coherence, adversarial subspaces, and what its members disagree on."""

from divtrain.analysis.coherence import coherence_distribution
from divtrain.analysis.detection import (
    Detection,
    InputKind,
    auroc_interval,
    detect,
    detection_scores,
    disagreement,
    max_softmax,
    roc_curve,
)
from divtrain.analysis.gaas import GAAS, gaas
from divtrain.analysis.hadamard import regular_hadamard

__all__ = [
    "GAAS",
    "Detection",
    "InputKind",
    "auroc_interval",
    "coherence_distribution",
    "detect",
    "detection_scores",
    "disagreement",
    "gaas",
    "max_softmax",
    "regular_hadamard",
    "roc_curve",
]
