"""What an ensemble looks like from inside: the coherence of its input gradients."""

from divtrain.analysis.coherence import coherence_distribution

__all__ = ["coherence_distribution"]
