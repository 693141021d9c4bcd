"""Warning signs of a whole evaluation: what in it says that its own attacks were too weak.

Each sign is a function from an `Evaluation` to sentences. Accuracies are compared on the same
images, and a difference that chance explains (below two points, or two standard errors of the
paired difference) raises no warning.
"""

from collections.abc import Callable, Iterator

from divtrain.evaluation import attack_signs, model_signs
from divtrain.evaluation.paired import curve_of, on_one_member, on_target, searches
from divtrain.evaluation.records import WarningSign
from divtrain.evaluation.results import Evaluation

SIGNS: dict[str, Callable[[Evaluation], Iterator[str]]] = {
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
    "weak-surrogate": model_signs.weak_surrogate,
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
    """Return the signs that could not have fired, with what they miss: no sign is no proof."""
    eps = evaluation.eps()
    own = [a for radius in eps for a in on_target(evaluation, radius)]
    names = {a.attack for a in own}
    transfer = [a for radius in eps for a in evaluation.runs("transfer", radius)]
    alone = [a for radius in eps for a in on_one_member(evaluation, radius)]
    noise = any(evaluation.runs("noise", radius) for radius in eps)
    query = any(evaluation.runs("query", radius) for radius in eps)
    curve = curve_of(evaluation, "white-box")
    members = "one member at a time (an ensemble, and a white-box attack)"
    needs = {
        "transfer-beats-white-box": (
            any(a.attack in names for a in transfer), "an attack both transferred and white-box"
        ),
        "transfer-beats-best-white-box": (bool(transfer and own), "transfer and white-box attacks"),
        "single-member-beats-white-box": (bool(alone and own), members),
        "member-beats-ensemble": (
            any(a.attack in names for a in alone), f"{members}, and white-box pgd"
        ),
        "noise-beats-white-box": (noise and bool(own), "noise and a white-box attack"),
        "one-step-beats-many": (
            any(
                {"one-step", "iterative"} <= {a.family for a in group}
                for group in (own, transfer)
            ),
            "one-step and iterative attacks on the same model",
        ),
        "not-monotone-in-eps": (len(curve) > 1, "a white-box curve"),
        "above-chance-at-half": (any(a.eps >= 0.5 for a in curve), "a white-box curve up to 0.5"),
        "label-leaking": (any(a.family == "reversed" for a in transfer), "reversed, transferred"),
        "square-beats-gradients": (query and bool(own), "square and a white-box attack"),
        "reweighted-beats-summed": (
            {"pgd", "pgd:reweighted"} <= names, "white-box pgd and pgd:reweighted"
        ),
        "still-rising": (
            any(searches(evaluation, radius) for radius in eps), "white-box pgd or apgd"
        ),
        "weak-surrogate": (bool(evaluation.surrogates), "a surrogate"),
    }  # fmt: skip
    return {name: missing for name, (asked, missing) in needs.items() if not asked}
