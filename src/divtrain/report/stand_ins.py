"""What other packages are about to offer; the lead replaces these by their imports."""

from divtrain.evaluation import CLEAN, WORST, Evaluation, WarningSign, signs
from divtrain.evaluation.evaluation import EVERY_SURROGATE
from divtrain.evaluation.plan import ONE_MEMBER

__all__ = ["EVERY_SURROGATE", "ONE_MEMBER", "attack_title", "not_asked", "warnings_of"]

TITLES = {
    CLEAN: "clean", "fgsm": "FGSM", "rfgsm": "R-FGSM", "ifgsm": "I-FGSM", "mifgsm": "MI-FGSM",
    "pgdcw": "PGD-CW", "pgd": "PGD", "apgd": "APGD", "apgdt": "APGD-T", "square": "Square",
    "noise": "noise", "reversed": "FGSM reversed", "nifgsm": "NI-FGSM", "difgsm": "DI-FGSM",
    "tifgsm": "TI-FGSM", "vmifgsm": "VMI-FGSM", "autoattack": "AutoAttack", WORST: "worst",
}  # fmt: skip
OBJECTIVES = {
    "mean_member_ce": "mean CE", "ce_of_mean_prob": "mean prob", "ce_of_mean_logit": "mean logit",
    "margin": "hinge", "dlr": "DLR", "reweighted": "reweighted",
}  # fmt: skip


def attack_title(name: str) -> str:
    """Becomes `divtrain.attacks.attack_title`."""
    attack, _, objective = name.partition(":")
    title = TITLES.get(attack, attack)
    return f"{title} ({OBJECTIVES.get(objective, objective)})" if objective else title


def warnings_of(evaluation: Evaluation) -> list[WarningSign]:
    """Becomes `Evaluation.warnings`."""
    return signs.warning_signs_of(evaluation)


def not_asked(evaluation: Evaluation) -> dict[str, str]:
    """Becomes `Evaluation.not_asked`."""
    return signs.not_asked(evaluation)
