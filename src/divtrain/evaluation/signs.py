"""Warning signs of a whole evaluation: evidence that its own attacks were too weak.

Accuracies are compared on the same images, and a difference that chance explains (below two points,
or two standard errors of the paired difference) raises no warning.
"""

from divtrain.evaluation import attack_signs, model_signs
from divtrain.evaluation.comparing import Comparison, Radius, Sign
from divtrain.evaluation.plan import AttackRun
from divtrain.evaluation.records import WarningSign
from divtrain.evaluation.results import Evaluation

SIGNS: dict[str, Sign] = {
    "transfer-beats-white-box": attack_signs.transfer_beats_white_box,
    "transfer-beats-best-white-box": attack_signs.transfer_beats_best_white_box,
    "single-member-beats-white-box": attack_signs.single_member_beats_white_box,
    "member-beats-ensemble": attack_signs.member_beats_ensemble,
    "noise-beats-white-box": attack_signs.noise_beats_white_box,
    "one-step-beats-many": attack_signs.one_step_beats_many,
    "not-monotone-in-eps": attack_signs.not_monotone_in_eps,
    "above-chance-at-half": attack_signs.above_chance_at_half,
    "vanishing-gradients": model_signs.vanishing_gradients,
    "saturated": model_signs.saturated,
    "probabilities-for-logits": model_signs.probabilities_for_logits,
    "label-leaking": attack_signs.label_leaking,
    "square-beats-gradients": attack_signs.square_beats_gradients,
    "reweighted-beats-summed": attack_signs.reweighted_beats_summed,
    "still-rising": attack_signs.still_rising,
    "randomised": model_signs.randomised,
    "batch-dependent": model_signs.batch_dependent,
    "weak-surrogate": model_signs.weak_surrogate,
    "surrogate-is-the-target": model_signs.surrogate_is_the_target,
    "shared-initial-weights": model_signs.shared_initial_weights,
    "unfit-for-the-images": model_signs.unfit_for_the_images,
}
"""Every sign by name; the documentation has a section of that name for each."""


def warnings_of(evaluation: Evaluation) -> list[WarningSign]:
    """Return every warning sign that fires."""
    return [
        WarningSign(name, evaluation.target, f"{evaluation.target}, {sentence}")
        for name, sentences in SIGNS.items()
        for sentence in sentences(evaluation)
    ]


def not_asked(evaluation: Evaluation) -> dict[str, str]:
    """Return the signs that could not have fired, with the attacks they need."""
    radii = [Radius(evaluation, eps) for eps in evaluation.eps()]
    own = [run for at in radii for run in at.own]
    alone = [run for at in radii for run in at.alone]
    transfer = [run for at in radii for run in at.runs("transfer")]
    noise, query = (any(at.runs(threat) for at in radii) for threat in ("noise", "query"))
    names, curve = {run.attack for run in own}, Comparison(evaluation).curve("white-box")
    members = "one member at a time (an ensemble, and a white-box attack)"

    def both(runs: list[AttackRun]) -> bool:
        return {"one-step", "iterative"} <= {run.family for run in runs}

    needs = {
        "transfer-beats-white-box": (
            any(run.attack in names for run in transfer), "an attack both transferred and white-box"
        ),
        "transfer-beats-best-white-box": (transfer and own, "transfer and white-box attacks"),
        "single-member-beats-white-box": (alone and own, members),
        "member-beats-ensemble": (
            any(run.attack in names for run in alone), f"{members}, and white-box pgd"
        ),
        "noise-beats-white-box": (noise and own, "noise and a white-box attack"),
        "one-step-beats-many": (
            both(own) or both(transfer), "one-step and iterative attacks on the same model"
        ),
        "not-monotone-in-eps": (len(curve) > 1, "a white-box curve"),
        "above-chance-at-half": (any(r.eps >= 0.5 for r in curve), "a white-box curve up to 0.5"),
        "label-leaking": (any(r.family == "reversed" for r in transfer), "reversed, transferred"),
        "square-beats-gradients": (query and own, "square and a white-box attack"),
        "reweighted-beats-summed": (
            {"pgd", "pgd:reweighted"} <= names, "white-box pgd and pgd:reweighted"
        ),
        "still-rising": (any(at.searches for at in radii), "white-box pgd or apgd"),
        **dict.fromkeys(
            ("weak-surrogate", "surrogate-is-the-target", "shared-initial-weights"),
            (evaluation.surrogates, "a surrogate"),
        ),
    }  # fmt: skip
    return {name: missing for name, (asked, missing) in needs.items() if not asked}
