"""From a suite of attacks to records, and the warning signs in them: one engine.

Suite -> make_plan -> AttackRun -> attack_model -> classify -> AttackResult -> Evaluation.
"""

from divtrain.evaluation.classifying import check_same_task, correct_batch, correct_mask
from divtrain.evaluation.crafting import (
    CraftedBatch,
    CraftedSet,
    Violations,
    craft,
    craft_batch,
    enforce_threat_model,
    join_batches,
    split_images,
)
from divtrain.evaluation.diagnosis import Diagnosis, diagnose, is_differentiable, try_gradient
from divtrain.evaluation.effort import Passes, count_passes
from divtrain.evaluation.evaluation import (
    attack_model,
    attacked,
    chance_level,
    check_surrogate,
    check_task,
    classify,
    compare_surrogate,
    diagnose_model,
    evaluate,
    has_members,
)
from divtrain.evaluation.intervals import paired_interval, wilson_interval
from divtrain.evaluation.likeness import check_other_weights
from divtrain.evaluation.packing import (
    pack_evaluation,
    pack_result,
    pack_sets,
    unpack_evaluation,
    unpack_result,
    unpack_sets,
)
from divtrain.evaluation.plan import EVERY_SURROGATE, ONE_MEMBER, AttackRun, make_plan
from divtrain.evaluation.records import CLEAN, WORST, Record, WarningSign
from divtrain.evaluation.results import AttackResult, Evaluation, SurrogateCheck
from divtrain.evaluation.signs import SIGNS
from divtrain.evaluation.suite import PAPER_SUITE, Suite, check_channels, quick
from divtrain.evaluation.threat import KNOWLEDGE, Threat
from divtrain.wrapping import as_module

__all__ = [
    "CLEAN", "EVERY_SURROGATE", "KNOWLEDGE", "ONE_MEMBER", "PAPER_SUITE", "SIGNS", "WORST",
    "AttackResult", "AttackRun", "CraftedBatch", "CraftedSet", "Diagnosis", "Evaluation",
    "Passes", "Record", "Suite", "SurrogateCheck", "Threat", "Violations", "WarningSign",
    "as_module", "attack_model", "attacked", "chance_level", "check_channels",
    "check_other_weights", "check_same_task", "check_surrogate", "check_task", "classify",
    "compare_surrogate", "correct_batch", "correct_mask", "count_passes", "craft",
    "craft_batch", "diagnose", "diagnose_model", "enforce_threat_model", "evaluate",
    "has_members", "is_differentiable", "join_batches", "make_plan", "pack_evaluation",
    "pack_result", "pack_sets", "paired_interval", "quick", "split_images", "try_gradient",
    "unpack_evaluation", "unpack_result", "unpack_sets", "wilson_interval",
]  # fmt: skip
