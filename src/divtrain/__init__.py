"""divtrain: train ensembles whose members do not fail together, and measure it honestly.

Kariyappa and Qureshi, "Improving Adversarial Robustness of Ensembles with Diversity Training",
arXiv 1901.09981 (2019).
"""

from divtrain import analysis, attacks, data, defences, evaluation, models, training
from divtrain.cross_entropy import cross_entropy
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.forward import Batch, MemberPass, Where, member_pass
from divtrain.gal import (
    DiversityLoss,
    coherence,
    diversity_loss,
    gradient_alignment_loss,
    input_gradients,
    pairwise_cosine,
)
from divtrain.training import load_ensemble, load_weights, save_ensemble
from divtrain.version import __version__

__all__ = [
    "Batch",
    "DiversityLoss",
    "DivtrainError",
    "Ensemble",
    "MemberPass",
    "Where",
    "__version__",
    "analysis",
    "attacks",
    "coherence",
    "cross_entropy",
    "data",
    "defences",
    "diversity_loss",
    "evaluation",
    "gradient_alignment_loss",
    "input_gradients",
    "load_ensemble",
    "load_weights",
    "member_pass",
    "models",
    "pairwise_cosine",
    "save_ensemble",
    "training",
]
