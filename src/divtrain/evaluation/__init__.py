"""From surrogates and targets to records, and the warning signs in them."""

from divtrain.evaluation.crafting import CraftedSet, Violations, craft, enforce_threat_model
from divtrain.evaluation.diagnosis import Diagnosis, diagnose
from divtrain.evaluation.effort import Passes, count_passes
from divtrain.evaluation.evaluation import Evaluation, AttackResult, evaluate
from divtrain.evaluation.intervals import paired_interval, wilson_interval
from divtrain.evaluation.plan import PAPER_SUITE, AttackRun, Suite, check_suite, make_plan, quick
from divtrain.evaluation.records import CLEAN, WORST, Record, make_records, worst_case
from divtrain.evaluation.sanity import WarningSign, warning_signs
from divtrain.evaluation.signs import SIGNS, not_asked, warning_signs_of
from divtrain.evaluation.threat import KNOWLEDGE, Threat, ThreatModel
from divtrain.evaluation.transfer import correct_mask, evaluate_transfer

__all__ = [
    "CLEAN",
    "KNOWLEDGE",
    "PAPER_SUITE",
    "SIGNS",
    "WORST",
    "AttackRun",
    "CraftedSet",
    "Diagnosis",
    "Evaluation",
    "AttackResult",
    "Passes",
    "Record",
    "Suite",
    "Threat",
    "ThreatModel",
    "Violations",
    "WarningSign",
    "check_suite",
    "correct_mask",
    "count_passes",
    "craft",
    "diagnose",
    "enforce_threat_model",
    "evaluate",
    "evaluate_transfer",
    "make_plan",
    "make_records",
    "not_asked",
    "paired_interval",
    "quick",
    "warning_signs",
    "warning_signs_of",
    "wilson_interval",
    "worst_case",
]
