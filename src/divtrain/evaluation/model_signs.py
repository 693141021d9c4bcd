"""Warning signs in the models themselves: what was measured on target and surrogates."""

from collections.abc import Iterator

from divtrain.evaluation.comparing import standard_error
from divtrain.evaluation.results import Evaluation

ZERO_GRADIENTS = 0.01
"""Share of images without a gradient above which gradient attacks are half blind."""
SATURATED = 0.05
"""Share of answers beyond `divtrain.evaluation.diagnosis.SATURATION` that is no accident."""
WEAKER = 0.1
"""How far a surrogate's clean accuracy may lie below the target's."""


def vanishing_gradients(evaluation: Evaluation) -> Iterator[str]:
    """Report input gradients that are zero, NaN or missing."""
    seen = evaluation.diagnosis
    if not seen.differentiable:
        why = f"torch: {seen.obstacle}" if seen.obstacle else (
            "is it quantised or a function of arrays, the input detached, or no_grad in the way?"
        )  # fmt: skip
        yield (
            f"autograd cannot see through the model ({why}); no gradient attack was possible, and"
            " its white-box robustness is unknown."
        )
    elif seen.zero_gradient > ZERO_GRADIENTS:
        yield (
            f"the input gradient is exactly zero at {seen.zero_gradient:.1%} of {seen.images} clean"
            " images; gradient attacks are blind there."
        )
    if seen.nan_gradient > 0:
        share = f"{seen.nan_gradient:.1%} of {seen.images} clean images"
        yield f"the input gradient is not finite at {share}."


def saturated(evaluation: Evaluation) -> Iterator[str]:
    """Report logits so far apart that probabilities and gradients are lost to rounding."""
    seen = evaluation.diagnosis
    if seen.saturated > SATURATED:
        yield (
            f"the first class leads the second by over 50 nats at {seen.saturated:.1%} of"
            f" {seen.images} clean images; probabilities round to 1 and gradients to 0, so attacks"
            " on the cross-entropy fail for a reason that is not robustness."
        )


def probabilities_for_logits(evaluation: Evaluation) -> Iterator[str]:
    """Report a model that returns probabilities where logits were asked for."""
    if evaluation.diagnosis.probabilities:
        yield (
            "the model returns probabilities, not logits or log-probabilities (every row sums to"
            " 1): attacks see a softmax of a softmax, far too flat. Return their logarithm, or"
            " drop the last softmax."
        )


def weak_surrogate(evaluation: Evaluation) -> Iterator[str]:
    """Report a surrogate that no sensible attacker would use: it makes any target look robust."""
    own = evaluation.clean.float().mean().item()
    for name, check in evaluation.surrogates.items():
        seen, faults = check.diagnosis, list[str]()
        if check.clean < own - WEAKER:
            faults.append(f"classifies {check.clean:.1%} of the clean images right, the target"
                          f" {own:.1%}")  # fmt: skip
        if seen.probabilities:
            faults.append("returns probabilities for logits")
        if not seen.differentiable:
            faults.append("has no gradient, so that only queries were crafted on it")
        elif seen.zero_gradient > ZERO_GRADIENTS:
            faults.append(f"has no input gradient at {seen.zero_gradient:.1%} of the images")
        if seen.other_range:
            faults.append(f"is right far more often on images {seen.other_range}")
        if faults:
            yield (
                f"surrogate {name} {' and '.join(faults)}; attacks copied from it say nothing about"
                " the target."
            )


def surrogate_is_the_target(evaluation: Evaluation) -> Iterator[str]:
    """Report a surrogate that is the target under another name."""
    for name, check in evaluation.surrogates.items():
        if check.same_answers:
            yield (
                f"surrogate {name} answers all {check.diagnosis.images} clean images looked at as"
                " the target does: it is the target in other words, and what is called transferred"
                " from it is white-box."
            )


def shared_initial_weights(evaluation: Evaluation) -> Iterator[str]:
    """Report a surrogate whose training began with the target's weights, as no attacker's does."""
    for name, check in evaluation.surrogates.items():
        if check.shared_start and not check.same_answers:
            yield (
                f"surrogate {name} was trained from the same initial weights as the target, or from"
                " the target: an attacker does not know them, and attacks transfer better from"
                " there. Train one with another seed."
            )


def unfit_for_the_images(evaluation: Evaluation) -> Iterator[str]:
    """Report a target that is no better than chance when clean, or wants another input range."""
    accuracy, seen = evaluation.clean.float().mean().item(), evaluation.diagnosis
    if seen.other_range:
        yield (
            f"the target classifies {accuracy:.1%} of the clean images right, and far more when"
            f" they are {seen.other_range}: either it wants that range of pixels, then wrap it so"
            " that it takes [0, 1] and changes the range inside; or it was hardly trained yet, and"
            " more contrast helps it."
        )
    elif accuracy < evaluation.chance + 2 * standard_error(
        evaluation.chance, len(evaluation.clean)
    ):
        yield (
            f"the target classifies {accuracy:.1%} of the clean images right, not clearly more"
            f" than always answering the most frequent class ({evaluation.chance:.1%}); there is"
            " nothing to be robust."
        )


def batch_dependent(evaluation: Evaluation) -> Iterator[str]:
    """Report answers that change with the other images of a batch."""
    share = evaluation.diagnosis.batch_dependent
    if share > 0:
        yield (
            f"the answers to {share:.1%} of the images change with the other images of their batch,"
            " in eval mode (batch norm without running statistics?); attacks that drop fooled"
            " images see another model than the evaluation does, so its numbers are no lower"
            " bound. Evaluate with fixed statistics."
        )


def randomised(evaluation: Evaluation) -> Iterator[str]:
    """Report answers that change from one pass to the next."""
    share = evaluation.diagnosis.randomised
    if share > 0:
        yield (
            f"two passes over the same images differ at {share:.1%} of them, in eval mode; attacks"
            " see other draws than the evaluation does, so its numbers are no lower bound. Average"
            " over the randomness (EoT) or fix it."
        )
