"""From a surrogate and targets to records, and the warning signs in them."""

from divtrain.evaluation.crafting import Violations, craft, enforce_threat_model
from divtrain.evaluation.records import CLEAN, WORST, Record, Threat, make_records, worst_case
from divtrain.evaluation.sanity import WarningSign, warning_signs
from divtrain.evaluation.transfer import correct_mask, evaluate_transfer

__all__ = [
    "CLEAN",
    "WORST",
    "Record",
    "Threat",
    "Violations",
    "WarningSign",
    "correct_mask",
    "craft",
    "enforce_threat_model",
    "evaluate_transfer",
    "make_records",
    "warning_signs",
    "worst_case",
]
