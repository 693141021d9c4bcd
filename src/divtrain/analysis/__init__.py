"""What an ensemble looks like from inside: coherence, and its adversarial subspaces."""

from divtrain.analysis.coherence import coherence_distribution
from divtrain.analysis.gaas import GAAS, gaas
from divtrain.analysis.hadamard import regular_hadamard

__all__ = ["GAAS", "coherence_distribution", "gaas", "regular_hadamard"]
