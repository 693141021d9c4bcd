"""Warning signs from comparing attacks: evidence that some of them were too weak."""

from collections.abc import Iterator

import torch

from divtrain.attacks import attack_title
from divtrain.evaluation.comparing import (
    MARGIN,
    Comparison,
    Radius,
    at_each_radius,
    clearly_lower,
    percent,
    standard_error,
)
from divtrain.evaluation.plan import AttackRun
from divtrain.evaluation.results import Evaluation

NO_NOISE = " No random noise of that size was tried: the size of the step alone may be the reason."
RISING = 0.2
"""Share of the objective's rise in the last quarter of the steps; 0.25 is a straight line."""


def title(run: AttackRun) -> str:
    """What reports call the attack of a run."""
    return attack_title(run.attack)


@at_each_radius
def transfer_beats_white_box(at: Radius) -> Iterator[str]:
    """Report transfers that fool more often than the same attack on the target itself."""
    own = {run.attack: run for run in at.own}
    for run in at.runs("transfer"):
        same = own.get(run.attack)
        if same is not None and at.less(run, same):
            yield (
                f"{title(run)} made directly on the target leaves {at.percent(same)} right; made on"
                f" {run.source} and copied it leaves only {at.percent(run)}. A direct attack should"
                " do better, so it failed, and its number is too high."
            )


@at_each_radius
def transfer_beats_best_white_box(at: Radius) -> Iterator[str]:
    """Report a transfer that fools more often than the strongest attack on the target itself."""
    best, other = at.best, at.strongest(at.runs("transfer"))
    if best and other and at.less(other, best):
        yield (
            f"{title(other)} copied from {other.source} leaves {at.percent(other)} right, the"
            f" strongest direct attack ({title(best)}) {at.percent(best, other)}. No direct attack"
            " here is strong enough."
        )


@at_each_radius
def single_member_beats_white_box(at: Radius) -> Iterator[str]:
    """Report that attacking one member at a time fools the ensemble more than attacking it."""
    best = at.best
    for alone in at.alone:
        if best and at.less(alone, best):
            yield (
                f"attacks on one member at a time leave {at.percent(alone)} right, the strongest"
                f" attack on the whole ensemble ({title(best)}) {at.percent(best, alone)} of the"
                " same images. The members' gradients cancel when they are added up, so attacks on"
                " the whole ensemble lose their way."
            )


@at_each_radius
def member_beats_ensemble(at: Radius) -> Iterator[str]:
    """Report a member that alone withstands its own attacker better than the ensemble does."""
    own = {run.attack: run for run in at.own}
    for alone in at.alone:
        masks, whole = at.evaluation.results[alone].members, own.get(alone.attack)
        if masks is None or whole is None:
            continue
        ensemble, best = at.left(whole, alone), int(masks.float().mean(1).argmax())
        # The best of several members is picked by its luck too: three standard errors, not two.
        if clearly_lower(ensemble, masks[best], errors=3):
            yield (
                f"member {best} alone keeps {percent(masks[best])} right under {title(alone)} on"
                f" itself, the ensemble {percent(ensemble)} under {title(alone)} on all of it. The"
                " ensemble is worse than one of its members."
            )


@at_each_radius
def noise_beats_white_box(at: Radius) -> Iterator[str]:
    """Report random noise that fools more often than the strongest white-box attack."""
    best = at.best
    for noise in at.runs("noise"):
        if best and at.less(noise, best):
            yield (
                f"random noise leaves {at.percent(noise)} right, the strongest direct attack"
                f" ({title(best)}) {at.percent(best)}. The attacks walk in the wrong direction."
            )


@at_each_radius
def one_step_beats_many(at: Radius) -> Iterator[str]:
    """Report one-step attacks that fool more often than the iterative ones on the same model."""
    runs = [*at.runs("transfer"), *at.own]
    for model in dict.fromkeys((run.threat, run.source) for run in runs):
        own = [run for run in runs if (run.threat, run.source) == model]
        one = at.strongest([run for run in own if run.family == "one-step"])
        many = at.strongest([run for run in own if run.family == "iterative"])
        if one and many and at.less(one, many):
            yield (
                f"one step ({title(one)}) on {one.source} leaves {at.percent(one)} right, many"
                f" steps ({title(many)}) {at.percent(many)}. Many steps should do better, so"
                " those attacks are weaker than they should be."
            )


def not_monotone_in_eps(evaluation: Evaluation) -> Iterator[str]:
    """Report a curve that rises with eps."""
    compared = Comparison(evaluation)
    for threat in ("white-box", "transfer"):
        curve = compared.curve(threat)
        for i, later in enumerate(curve):
            lower = [run for run in curve[:i] if compared.less(run, later)]
            if lower:
                yield (
                    f"{threat} curve: {title(lower[0])} leaves {compared.percent(lower[0])} right"
                    f" at eps {lower[0].eps:g}, {compared.percent(later)} at {later.eps:g}. Larger"
                    " changes include the smaller ones, so the attack failed there."
                )
                break


def above_chance_at_half(evaluation: Evaluation) -> Iterator[str]:
    """Report accuracy above chance at eps 0.5, where every image may be turned plain grey."""
    chance, compared = evaluation.chance, Comparison(evaluation)
    for run in compared.curve("white-box"):
        left = compared.left(run)
        error = standard_error(chance, len(left))
        if run.eps >= 0.5 and left.float().mean().item() > chance + max(MARGIN, 2 * error):
            yield (
                f"eps {run.eps:g}: {title(run)} made directly on the target leaves"
                f" {percent(left)} right, more than chance ({chance:.0%}). At this eps an attacker"
                " may turn every image plain grey, so the attack failed."
            )


@at_each_radius
def label_leaking(at: Radius) -> Iterator[str]:
    """Report a target fooled by steps that make the true label likelier, on a surrogate."""
    clean, noise = at.evaluation.clean, [at.left(run) for run in at.runs("noise")]
    for run in at.runs("transfer"):
        left = at.left(run)
        # Noise of this size may hurt as well: less must be left than of either.
        if run.family == "reversed" and all(clearly_lower(left, mask) for mask in (clean, *noise)):
            yield (
                f"a step on {run.source} towards the *true* label, which should help, leaves"
                f" {percent(left)} right, no step {percent(clean)}. The target has learned to read"
                " the label off the attacks it was trained on, so what it keeps under those is not"
                " robustness."
                f"{'' if noise else NO_NOISE}"
            )


@at_each_radius
def square_beats_gradients(at: Radius) -> Iterator[str]:
    """Report a search without gradients that fools what every gradient attack left."""
    own = [*at.own, *at.alone]
    for run in at.runs("query") if own else ():
        more = torch.stack([at.left(each, run) for each in own]).all(0) & ~at.left(run)
        if more.float().mean().item() > MARGIN and int(more.sum()) >= 3:
            yield (
                f"{title(run)}, which sees answers only, fools {percent(more)} of {len(more)}"
                " images that every direct attack by gradients left right. The gradients hide"
                " something."
            )


@at_each_radius
def reweighted_beats_summed(at: Radius) -> Iterator[str]:
    """Report that PGD with reweighted members fools more than PGD on the mean of their losses."""
    own = {run.attack: run for run in at.own}
    summed, anew = own.get("pgd"), own.get("pgd:reweighted")
    if summed and anew and at.less(anew, summed):
        yield (
            f"PGD on the members' mean loss leaves {at.percent(summed)} right, with members"
            f" reweighted {at.percent(anew)}. Added up, the members' gradients cancel, and any"
            " number from a summed loss is too high."
        )


@at_each_radius
def still_rising(at: Radius) -> Iterator[str]:
    """Report that the strongest search had not come to rest when its steps were used up."""
    best = at.strongest(at.searches)
    rise = at.evaluation.results[best].rise if best else None
    if best and rise is not None and rise > RISING:
        yield (
            f"the objective of {title(best)}, at images not fooled, was still rising:"
            f" {rise:.0%} of its rise came in the last quarter of the steps. More steps would fool"
            " more images."
        )
