"""Warning signs in how the attacks compare: what says that some of them were too weak."""

from collections.abc import Iterator

import torch

from divtrain.evaluation.paired import (
    MARGIN,
    clearly_lower,
    curve_of,
    leaves_less,
    on_one_member,
    on_target,
    percent,
    searches,
    share,
    shared_mask,
    standard_error,
    strongest,
)
from divtrain.evaluation.results import Evaluation

NO_NOISE = " No random noise of that size was tried: the size of the step alone may be the reason."
RISING = 0.2
"""Share of the objective's rise in the last quarter of the steps; 0.25 is a straight line."""


def transfer_beats_white_box(evaluation: Evaluation) -> Iterator[str]:
    """Report transfers that fool more often than the same attack on the target itself."""
    for eps in evaluation.eps():
        own = {a.attack: a for a in on_target(evaluation, eps)}
        for run in evaluation.runs("transfer", eps):
            same = own.get(run.attack)
            if same is not None and leaves_less(evaluation, run, same):
                yield (
                    f"eps {eps:g}: {run.attack} leaves {percent(evaluation, same)} when"
                    f" crafted on the target itself, but {percent(evaluation, run)} when"
                    f" transferred from {run.source}; the white-box number is not robustness,"
                    " its attack fails."
                )


def transfer_beats_best_white_box(evaluation: Evaluation) -> Iterator[str]:
    """Report a transfer that fools more often than the strongest attack on the target itself."""
    for eps in evaluation.eps():
        best = strongest(evaluation, on_target(evaluation, eps))
        other = strongest(evaluation, evaluation.runs("transfer", eps))
        if best and other and leaves_less(evaluation, other, best):
            yield (
                f"eps {eps:g}: {other.attack} transferred from {other.source} leaves"
                f" {percent(evaluation, other)}, the strongest white-box attack ({best.attack})"
                f" {percent(evaluation, best)}; no white-box attack here is strong enough."
            )


def single_member_beats_white_box(evaluation: Evaluation) -> Iterator[str]:
    """Report that attacking one member at a time fools the ensemble more than attacking it."""
    for eps in evaluation.eps():
        best = strongest(evaluation, on_target(evaluation, eps))
        for alone in on_one_member(evaluation, eps):
            if best and leaves_less(evaluation, alone, best):
                yield (
                    f"eps {eps:g}: attacking one member at a time leaves"
                    f" {percent(evaluation, alone)}, the strongest attack on the whole ensemble"
                    f" ({best.attack}) {percent(evaluation, best, alone)} of the same images; the"
                    " members' gradients cancel when they are put together."
                )


def member_beats_ensemble(evaluation: Evaluation) -> Iterator[str]:
    """Report a member that alone withstands its own attacker better than the ensemble does."""
    for eps in evaluation.eps():
        own = {run.attack: run for run in on_target(evaluation, eps)}
        for alone in on_one_member(evaluation, eps):
            masks, whole = evaluation.results[alone].members, own.get(alone.attack)
            if masks is None or whole is None:
                continue
            ensemble = shared_mask(evaluation, whole, alone)
            best = int(masks.float().mean(1).argmax())
            # The best of several members is picked by its luck too: three standard errors, not two.
            if clearly_lower(ensemble, masks[best], errors=3):
                yield (
                    f"eps {eps:g}: member {best} alone keeps {share(masks[best])} under"
                    f" {alone.attack} on itself, the ensemble {share(ensemble)} under"
                    f" {alone.attack} on all of it; the ensemble is worse than its part."
                )


def noise_beats_white_box(evaluation: Evaluation) -> Iterator[str]:
    """Report random noise that fools more often than the strongest white-box attack."""
    for eps in evaluation.eps():
        best = strongest(evaluation, on_target(evaluation, eps))
        for noise in evaluation.runs("noise", eps):
            if best and leaves_less(evaluation, noise, best):
                yield (
                    f"eps {eps:g}: random noise leaves {percent(evaluation, noise)}, the strongest"
                    f" white-box attack ({best.attack}) {percent(evaluation, best)}; the attacks"
                    " walk in the wrong direction."
                )


def one_step_beats_many(evaluation: Evaluation) -> Iterator[str]:
    """Report one-step attacks that fool more often than the iterative ones on the same model."""
    for eps in evaluation.eps():
        runs = [*evaluation.runs("transfer", eps), *on_target(evaluation, eps)]
        for model in dict.fromkeys((run.threat, run.source) for run in runs):
            own = [run for run in runs if (run.threat, run.source) == model]
            one = strongest(evaluation, [run for run in own if run.family == "one-step"])
            many = strongest(evaluation, [run for run in own if run.family == "iterative"])
            if one and many and leaves_less(evaluation, one, many):
                yield (
                    f"eps {eps:g}: one step ({one.attack}) on {one.source} leaves"
                    f" {percent(evaluation, one)}, many ({many.attack})"
                    f" {percent(evaluation, many)}; the iterative attacks are weaker than they"
                    " should be."
                )


def not_monotone_in_eps(evaluation: Evaluation) -> Iterator[str]:
    """Report a curve that rises with eps."""
    for threat in ("white-box", "transfer"):
        curve = curve_of(evaluation, threat)
        for i, later in enumerate(curve):
            lower = [a for a in curve[:i] if leaves_less(evaluation, a, later)]
            if lower:
                yield (
                    f"{threat} curve: {lower[0].attack} leaves {percent(evaluation, lower[0])} at"
                    f" eps {lower[0].eps:g} but {percent(evaluation, later)} at {later.eps:g}; a"
                    " larger ball holds the smaller one, so the attack fails."
                )
                break


def above_chance_at_half(evaluation: Evaluation) -> Iterator[str]:
    """Report accuracy above chance at eps 0.5, where every image may be turned plain grey."""
    chance = evaluation.chance
    for run in curve_of(evaluation, "white-box"):
        accuracy = evaluation.results[run].correct.float().mean().item()
        error = standard_error(chance, len(evaluation.results[run].correct))
        if run.eps >= 0.5 and accuracy > chance + max(MARGIN, 2 * error):
            yield (
                f"eps {run.eps:g}: white-box {run.attack} leaves {accuracy:.1%}, above"
                f" chance ({chance:.0%}), where the adversary may replace every image by plain"
                " grey; the attack fails."
            )


def label_leaking(evaluation: Evaluation) -> Iterator[str]:
    """Report a target fooled by steps that make the true label likelier, on a surrogate."""
    for eps in evaluation.eps():
        noise = [evaluation.results[run].correct for run in evaluation.runs("noise", eps)]
        for run in evaluation.runs("transfer", eps):
            left = evaluation.results[run].correct
            # Noise of this size may hurt as well: less must be left than of either.
            if run.family == "reversed" and all(
                clearly_lower(left, mask) for mask in (evaluation.clean, *noise)
            ):
                yield (
                    f"eps {eps:g}: a step on {run.source} that makes the true label *likelier*"
                    f" leaves {share(left)}, none {share(evaluation.clean)}; the target reads the"
                    " label off the attacks it was trained on, so what it withstands of those is"
                    " not robustness."
                    f"{'' if noise else NO_NOISE}"
                )


def square_beats_gradients(evaluation: Evaluation) -> Iterator[str]:
    """Report a search without gradients that fools what every gradient attack left."""
    for eps in evaluation.eps():
        own = [*on_target(evaluation, eps), *on_one_member(evaluation, eps)]
        for run in evaluation.runs("query", eps) if own else ():
            left = torch.stack([shared_mask(evaluation, each, run) for each in own]).all(0)
            more = left & ~evaluation.results[run].correct
            part = more.float().mean().item()
            if part > MARGIN and int(more.sum()) >= 3:
                yield (
                    f"eps {eps:g}: {run.attack}, which sees answers only, fools {part:.1%} of"
                    f" {len(more)} images that withstood every white-box gradient attack; the"
                    " gradients hide something."
                )


def reweighted_beats_summed(evaluation: Evaluation) -> Iterator[str]:
    """Report that weighing the members anew fools more than the mean of their losses."""
    for eps in evaluation.eps():
        own = {a.attack: a for a in on_target(evaluation, eps)}
        summed, anew = own.get("pgd"), own.get("pgd:reweighted")
        if summed and anew and leaves_less(evaluation, anew, summed):
            yield (
                f"eps {eps:g}: PGD on the members' mean loss leaves {percent(evaluation, summed)},"
                f" with members reweighted {percent(evaluation, anew)}; summed, the members'"
                " gradients cancel, and any number from a summed loss flatters."
            )


def still_rising(evaluation: Evaluation) -> Iterator[str]:
    """Report that the strongest search had not come to rest when its steps were used up."""
    for eps in evaluation.eps():
        best = strongest(evaluation, searches(evaluation, eps))
        rise = evaluation.results[best].rise if best else None
        if best and rise is not None and rise > RISING:
            yield (
                f"eps {eps:g}: {rise:.0%} of the rise of the objective of {best.attack}, at images"
                " not fooled, came in the last quarter of its steps; more steps would find more."
            )
