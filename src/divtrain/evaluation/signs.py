"""Warning signs of a whole evaluation: what in it says that its own attacks were too weak.

Each sign is a function of an `Evaluation`; `warning_signs_of` asks them all. Accuracies are
compared on the same images, and a difference that chance explains (below two points, or two
standard errors of the paired difference) raises no warning.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from divtrain.evaluation.evaluation import Evaluation, chosen_images
from divtrain.evaluation.plan import ONE_MEMBER, AttackRun
from divtrain.evaluation.sanity import MANY_STEPS, MARGIN, ONE_STEP, WarningSign, leaking

ZERO_GRADIENTS = 0.01
"""Share of images without a gradient above which gradient attacks are half blind."""
SATURATED = 0.05
"""Share of answers beyond `divtrain.evaluation.diagnosis.SATURATION` that is no accident."""
WEAKER = 0.1
"""How far a surrogate's clean accuracy may lie below the target's."""
RISING = 0.2
"""Share of the objective's rise in the last quarter of the steps; 0.25 is a straight line."""


def warning_signs_of(evaluation: Evaluation) -> list[WarningSign]:
    """Return every warning sign that fires, see the functions below."""
    return [
        WarningSign(name, evaluation.target, f"{evaluation.target}, {sentence}")
        for name, look in SIGNS.items()
        for sentence in look(evaluation)
    ]


def transfer_beats_white_box(evaluation: Evaluation) -> Iterator[str]:
    """Report transfers that fool more often than the same attack on the target itself."""
    for eps in evaluation.eps():
        own = {a.attack: a for a in _on_target(evaluation, eps)}
        for attempt in evaluation.runs("transfer", eps):
            same = own.get(attempt.attack)
            if same is not None and _lower(evaluation, attempt, same):
                yield (
                    f"eps {eps:g}: {attempt.attack} leaves {_percent(evaluation, same)} when"
                    f" crafted on the target itself, but {_percent(evaluation, attempt)} when"
                    f" transferred from {attempt.source}; the white-box number is not robustness,"
                    " its attack fails."
                )


def transfer_beats_best_white_box(evaluation: Evaluation) -> Iterator[str]:
    """Report a transfer that fools more often than the strongest attack on the target itself."""
    for eps in evaluation.eps():
        best = _strongest(evaluation, _on_target(evaluation, eps))
        other = _strongest(evaluation, evaluation.runs("transfer", eps))
        if best and other and _lower(evaluation, other, best):
            yield (
                f"eps {eps:g}: {other.attack} transferred from {other.source} leaves"
                f" {_percent(evaluation, other)}, the strongest white-box attack ({best.attack})"
                f" {_percent(evaluation, best)}; no white-box attack here is strong enough."
            )


def single_member_beats_white_box(evaluation: Evaluation) -> Iterator[str]:
    """Report that attacking one member at a time fools the ensemble more than attacking it."""
    for eps in evaluation.eps():
        alone = _one_member(evaluation, eps)
        best = _strongest(evaluation, _on_target(evaluation, eps))
        if alone and best and _lower(evaluation, alone, best):
            yield (
                f"eps {eps:g}: attacking one member at a time leaves"
                f" {_percent(evaluation, alone)}, the strongest attack on the whole ensemble"
                f" ({best.attack}) {_percent(evaluation, best, alone)} of the same images; the"
                " members' gradients cancel when they are put together."
            )


def member_beats_ensemble(evaluation: Evaluation) -> Iterator[str]:
    """Report a member that alone withstands its own attacker better than the ensemble does."""
    for eps in evaluation.eps():
        alone = _one_member(evaluation, eps)
        whole = [a for a in _on_target(evaluation, eps) if alone and a.attack == alone.attack]
        masks = evaluation.results[alone].members if alone else None
        if not alone or not whole or masks is None:
            continue
        ensemble = _shared(evaluation, whole[0], alone)
        best = int(masks.float().mean(1).argmax())
        # The best of several members is picked by its luck too: three standard errors, not two.
        if _lower_mask(ensemble, masks[best], errors=3):
            yield (
                f"eps {eps:g}: member {best} alone keeps {_share(masks[best])} under"
                f" {alone.attack} on itself, the ensemble {_share(ensemble)} under {alone.attack}"
                " on all of it; the ensemble is worse than its part."
            )


def noise_beats_white_box(evaluation: Evaluation) -> Iterator[str]:
    """Report random noise that fools more often than the strongest white-box attack."""
    for eps in evaluation.eps():
        best = _strongest(evaluation, _on_target(evaluation, eps))
        for noise in evaluation.runs("noise", eps):
            if best and _lower(evaluation, noise, best):
                yield (
                    f"eps {eps:g}: random noise leaves {_percent(evaluation, noise)}, the strongest"
                    f" white-box attack ({best.attack}) {_percent(evaluation, best)}; the attacks"
                    " walk in the wrong direction."
                )


def one_step_beats_many(evaluation: Evaluation) -> Iterator[str]:
    """Report one-step attacks that fool more often than the iterative ones on the same model."""
    for eps in evaluation.eps():
        attempts = [*evaluation.runs("transfer", eps), *_on_target(evaluation, eps)]
        for source in dict.fromkeys(attempt.source for attempt in attempts):
            mine = [attempt for attempt in attempts if attempt.source == source]
            one = _strongest(evaluation, [a for a in mine if _kind(a) in ONE_STEP])
            many = _strongest(evaluation, [a for a in mine if _kind(a) in MANY_STEPS])
            if one and many and _lower(evaluation, one, many):
                yield (
                    f"eps {eps:g}: one step ({one.attack}) on {source} leaves"
                    f" {_percent(evaluation, one)}, many ({many.attack})"
                    f" {_percent(evaluation, many)}; the iterative attacks are weaker than they"
                    " should be."
                )


def not_monotone_in_eps(evaluation: Evaluation) -> Iterator[str]:
    """Report a curve that rises with eps."""
    for threat in ("white-box", "transfer"):
        curve = _curve(evaluation, threat)
        for i, later in enumerate(curve):
            lower = [a for a in curve[:i] if _lower(evaluation, a, later)]
            if lower:
                yield (
                    f"{threat} curve: {lower[0].attack} leaves {_percent(evaluation, lower[0])} at"
                    f" eps {lower[0].eps:g} but {_percent(evaluation, later)} at {later.eps:g}; a"
                    " larger ball holds the smaller one, so the attack fails."
                )
                break


def above_chance_at_half(evaluation: Evaluation) -> Iterator[str]:
    """Report accuracy above chance at eps 0.5, where every image may be turned plain grey."""
    chance = evaluation.chance
    for attempt in _curve(evaluation, "white-box"):
        accuracy = evaluation.results[attempt].correct.float().mean().item()
        error = _error(chance, len(evaluation.results[attempt].correct))
        if attempt.eps >= 0.5 and accuracy > chance + max(MARGIN, 2 * error):
            yield (
                f"eps {attempt.eps:g}: white-box {attempt.attack} leaves {accuracy:.1%}, above"
                f" chance ({chance:.0%}), where the adversary may replace every image by plain"
                " grey; the attack fails."
            )


def vanishing_gradients(evaluation: Evaluation) -> Iterator[str]:
    """Report input gradients that are zero, NaN or missing."""
    seen = evaluation.diagnosis
    if not seen.differentiable:
        yield (
            "autograd cannot see through the model (is the input detached, or the model run under"
            " no_grad?); no gradient attack was possible, and its white-box robustness is unknown."
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


def label_leaking(evaluation: Evaluation) -> Iterator[str]:
    """Report a target fooled by steps that make the true label likelier, on a surrogate."""
    for eps in evaluation.eps():
        noise = evaluation.runs("noise", eps)
        floor = torch.stack([evaluation.clean, *(evaluation.results[a].correct for a in noise)])
        for attempt in evaluation.runs("transfer", eps):
            left = evaluation.results[attempt].correct
            # Both must be clearly above it: noise of this size may hurt as well.
            if _kind(attempt) == "reversed" and all(_lower_mask(left, mask) for mask in floor):
                shares = (mask.float().mean().item() for mask in (left, evaluation.clean))
                yield f"eps {eps:g}: {leaking(attempt.source, *shares)}"


def square_beats_gradients(evaluation: Evaluation) -> Iterator[str]:
    """Report a search without gradients that fools what every gradient attack left."""
    for eps in evaluation.eps():
        alone = _one_member(evaluation, eps)
        own = [*_on_target(evaluation, eps), *([alone] if alone else [])]
        for attempt in evaluation.runs("query", eps):
            if not own:
                continue
            masks = [_shared(evaluation, a, attempt) for a in own]
            left = torch.stack(masks).all(0)
            more = left & ~evaluation.results[attempt].correct
            share = more.float().mean().item()
            if share > MARGIN and int(more.sum()) >= 3:
                yield (
                    f"eps {eps:g}: {attempt.attack}, which sees answers only, fools {share:.1%} of"
                    f" {len(more)} images that withstood every white-box gradient attack; the"
                    " gradients hide something."
                )


def reweighted_beats_summed(evaluation: Evaluation) -> Iterator[str]:
    """Report that weighing the members anew fools more than the mean of their losses."""
    for eps in evaluation.eps():
        own = {a.attack: a for a in _on_target(evaluation, eps)}
        summed, anew = own.get("pgd"), own.get("pgd:reweighted")
        if summed and anew and _lower(evaluation, anew, summed):
            yield (
                f"eps {eps:g}: PGD on the members' mean loss leaves {_percent(evaluation, summed)},"
                f" with members reweighted {_percent(evaluation, anew)}; summed, the members'"
                " gradients cancel, and any number from a summed loss flatters."
            )


def still_rising(evaluation: Evaluation) -> Iterator[str]:
    """Report that the strongest search had not come to rest when its steps were used up."""
    for eps in evaluation.eps():
        own = [a for a in _on_target(evaluation, eps) if _kind(a) in ("pgd", "apgd")]
        best = _strongest(evaluation, own)
        rise = evaluation.results[best].rise if best else None
        if best and rise is not None and rise > RISING:
            yield (
                f"eps {eps:g}: {rise:.0%} of the rise of the objective of {best.attack}, at images"
                " not fooled, came in the last quarter of its steps; more steps would find more."
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
        if not seen.differentiable or seen.zero_gradient > ZERO_GRADIENTS:
            faults.append(f"has no input gradient at {seen.zero_gradient:.1%} of the images")
        if seen.other_range:
            faults.append(f"is right far more often on images {seen.other_range}")
        if faults:
            yield (
                f"surrogate {name} {' and '.join(faults)}; what is transferred from it says nothing"
                " of the target."
            )


def unfit_for_the_images(evaluation: Evaluation) -> Iterator[str]:
    """Report a target that is no better than chance when clean, or wants another input range."""
    accuracy, seen = evaluation.clean.float().mean().item(), evaluation.diagnosis
    if seen.other_range:
        yield (
            f"the target classifies {accuracy:.1%} of the clean images right, and far more when"
            f" they are {seen.other_range}: it wants another range of pixels. Wrap it so that it"
            " takes [0, 1] and changes the range inside."
        )
    elif accuracy < evaluation.chance + 2 * _error(evaluation.chance, len(evaluation.clean)):
        yield (
            f"the target classifies {accuracy:.1%} of the clean images right, no better than"
            f" always answering the most frequent class ({evaluation.chance:.1%}); there is nothing"
            " to be robust."
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


SIGNS: dict[str, Callable[[Evaluation], Iterator[str]]] = {
    "transfer-beats-white-box": transfer_beats_white_box,
    "transfer-beats-best-white-box": transfer_beats_best_white_box,
    "single-member-beats-white-box": single_member_beats_white_box,
    "member-beats-ensemble": member_beats_ensemble,
    "noise-beats-white-box": noise_beats_white_box,
    "one-step-beats-many": one_step_beats_many,
    "not-monotone-in-eps": not_monotone_in_eps,
    "above-chance-at-half": above_chance_at_half,
    "vanishing-gradients": vanishing_gradients,
    "saturated": saturated,
    "probabilities-for-logits": probabilities_for_logits,
    "label-leaking": label_leaking,
    "square-beats-gradients": square_beats_gradients,
    "reweighted-beats-summed": reweighted_beats_summed,
    "still-rising": still_rising,
    "randomised": randomised,
    "weak-surrogate": weak_surrogate,
    "unfit-for-the-images": unfit_for_the_images,
}
"""Every sign by name; the documentation has a section of that name for each."""


def not_asked(evaluation: Evaluation) -> dict[str, str]:
    """Return the signs that could not have fired, with what they miss: no sign is no proof."""
    eps = evaluation.eps()
    own = [a for radius in eps for a in _on_target(evaluation, radius)]
    kinds, names = {_kind(a) for a in own}, {a.attack for a in own}
    transfer = [a for radius in eps for a in evaluation.runs("transfer", radius)]
    alone = any(_one_member(evaluation, radius) for radius in eps)
    query = any(evaluation.runs("query", radius) for radius in eps)
    curve = _curve(evaluation, "white-box")
    members = "one member at a time (an ensemble, and a white-box attack)"
    needs = {
        "transfer-beats-white-box": (
            any(a.attack in names for a in transfer), "an attack both transferred and white-box"
        ),
        "transfer-beats-best-white-box": (bool(transfer and own), "transfer and white-box attacks"),
        "single-member-beats-white-box": (alone and bool(own), members),
        "member-beats-ensemble": (alone and "pgd" in names, f"{members}, and white-box pgd"),
        "noise-beats-white-box": (bool(own), "a white-box attack"),
        "one-step-beats-many": (
            any(
                any(_kind(a) in ONE_STEP for a in group)
                and any(_kind(a) in MANY_STEPS for a in group)
                for group in (own, transfer)
            ),
            "one-step and iterative attacks on the same model",
        ),
        "not-monotone-in-eps": (len(curve) > 1, "a white-box curve"),
        "above-chance-at-half": (any(a.eps >= 0.5 for a in curve), "a white-box curve up to 0.5"),
        "label-leaking": (any(_kind(a) == "reversed" for a in transfer), "reversed, transferred"),
        "square-beats-gradients": (query and bool(own), "square and a white-box attack"),
        "reweighted-beats-summed": (
            {"pgd", "pgd:reweighted"} <= names, "white-box pgd and pgd:reweighted"
        ),
        "still-rising": (bool(kinds & {"pgd", "apgd"}), "white-box pgd or apgd"),
        "weak-surrogate": (bool(evaluation.surrogates), "a surrogate"),
    }  # fmt: skip
    return {name: missing for name, (asked, missing) in needs.items() if not asked}


def _kind(attempt: AttackRun) -> str:
    return attempt.attack.partition(":")[0]


def _on_target(evaluation: Evaluation, eps: float) -> list[AttackRun]:
    own = evaluation.runs("white-box", eps)
    return [attempt for attempt in own if attempt.source == evaluation.target]


def _one_member(evaluation: Evaluation, eps: float) -> AttackRun | None:
    own = evaluation.runs("white-box", eps)
    return next((attempt for attempt in own if attempt.source == ONE_MEMBER), None)


def _curve(evaluation: Evaluation, threat: str) -> list[AttackRun]:
    points = [a for a in evaluation.results if a.sweep and a.threat == threat]
    return sorted(points, key=lambda attempt: attempt.eps)


def _strongest(evaluation: Evaluation, attempts: list[AttackRun]) -> AttackRun | None:
    return min(
        attempts, key=lambda a: evaluation.results[a].correct.float().mean().item(), default=None
    )


def _shared(evaluation: Evaluation, attempt: AttackRun, other: AttackRun) -> Tensor:
    """Mask of an attempt at those of its images that another attempt has too."""
    mask = evaluation.results[attempt].correct
    if attempt.images == other.images or other.images is None:
        return mask
    return mask[chosen_images(len(mask), other.images)]


def _lower(evaluation: Evaluation, one: AttackRun, other: AttackRun) -> bool:
    """Whether an attempt leaves clearly less than another, on the images both have."""
    return _lower_mask(_shared(evaluation, one, other), _shared(evaluation, other, one))


def _lower_mask(one: Tensor, other: Tensor, errors: float = 2) -> bool:
    """Whether a mask holds clearly less than another of the same images."""
    difference = other.float() - one.float()
    error = difference.std(correction=0).item() / math.sqrt(len(difference))
    return difference.mean().item() > max(MARGIN, errors * error)


def _share(mask: Tensor) -> str:
    return f"{mask.float().mean().item():.1%}"


def _error(share: float, images: int) -> float:
    return math.sqrt(share * (1 - share) / images)


def _percent(evaluation: Evaluation, attempt: AttackRun, other: AttackRun | None = None) -> str:
    mask = _shared(evaluation, attempt, other or attempt)
    return f"{mask.float().mean().item():.1%}"
