"""Analyses of an ensemble: coherence, zeros, adversarial subspaces, disagreement."""

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
from divtrain.analysis.gaas import GAAS, check_orders, gaas
from divtrain.analysis.hadamard import regular_hadamard
from divtrain.analysis.plane import Plane, gradient_plane
from divtrain.analysis.shown import choose_shown
from divtrain.analysis.zeros import ZeroShares, count_zeros, idle_weights, zero_shares

__all__ = [
    "GAAS", "Detection", "InputKind", "Plane", "ZeroShares", "auroc_interval", "check_orders",
    "choose_shown", "coherence_distribution", "count_zeros", "detect", "detection_scores",
    "disagreement", "gaas", "gradient_plane", "idle_weights", "max_softmax", "regular_hadamard",
    "roc_curve", "zero_shares",
]  # fmt: skip
