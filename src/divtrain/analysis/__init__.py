"""What an ensemble looks like from inside: coherence, zeros, and its adversarial subspaces."""

from divtrain.analysis.coherence import coherence_distribution
from divtrain.analysis.gaas import GAAS, gaas
from divtrain.analysis.hadamard import regular_hadamard
from divtrain.analysis.zeros import ZeroShares, count_zeros, idle_weights, zero_shares

__all__ = [
    "GAAS",
    "ZeroShares",
    "coherence_distribution",
    "count_zeros",
    "gaas",
    "idle_weights",
    "regular_hadamard",
    "zero_shares",
]
