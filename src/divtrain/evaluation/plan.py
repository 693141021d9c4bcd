"""Which attacks an evaluation runs, as data."""

from collections.abc import Collection, Sequence
from dataclasses import field

import torch
from torch import Tensor

from divtrain.attacks import ATTACKS, Attack, Family, build_attack, find_attack
from divtrain.data import Images
from divtrain.errors import DivtrainError
from divtrain.evaluation.suite import Suite, check_family
from divtrain.evaluation.threat import Threat
from divtrain.fields import Count, Share, checked

ONE_MEMBER = "one member at a time"
"""What a white-box adversary attacks instead of the whole ensemble; it stands as a surrogate."""
EVERY_SURROGATE = "all surrogates"
"""What a worst case over several surrogates has in the place of a surrogate."""


@checked
class AttackRun:
    """One attack at one radius, on one model, on some of the images.

    Attributes:
        threat: What the adversary knows.
        source: What is attacked: a surrogate's name, the target's own (white-box, query, noise),
            or `ONE_MEMBER`. A surrogate may be called as the target is: `threat` tells them apart.
        attack: Name of the attack.
        eps: L-infinity radius.
        images: How many images, evenly chosen; None for all.
        steps: Steps of a search, queries of square; None for the attack's own.
        restarts: Runs of a search; None for the attack's own.
        sweep: Whether it is a point of the curve rather than of the table.
        family: What kind of attack it is; found from the name of a known attack.
    """

    threat: Threat
    source: str
    attack: str
    eps: Share
    images: Count | None = None
    steps: Count | None = None
    restarts: Count | None = None
    sweep: bool = False
    family: Family = field(default="iterative", compare=False)

    def __post_init__(self) -> None:
        """Look the family of a known attack up; nothing is imported for it."""
        known = ATTACKS.get(self.attack.partition(":")[0])
        object.__setattr__(self, "family", getattr(known, "family", self.family))

    @property
    def one_member(self) -> bool:
        """Whether each member is attacked alone."""
        return self.threat == "white-box" and self.source == ONE_MEMBER

    def build(self) -> Attack:
        """Return the attack."""
        return build_attack(
            self.attack,
            self.eps,
            steps=self.steps,
            restarts=self.restarts,
            white_box=self.threat != "transfer" and not self.one_member,
        )

    def choose(self, images: Images) -> Images:
        """Return those of an evaluation's images that this run attacks."""
        return choose_images(images, self.images)


def chosen_images(total: int, count: int | None) -> Tensor:
    """Indices of `count` images spread evenly over `total`; all of them for None.

    >>> chosen_images(10, 4).tolist()
    [0, 2, 5, 7]
    """
    count = total if count is None else min(count, total)
    return torch.arange(count) * total // count


def choose_images(images: Images, count: int | None) -> Images:
    """Return `count` images spread evenly over all; all of them for None."""
    chosen = chosen_images(len(images), count)
    return Images(images.x[chosen], images.y[chosen])


def make_plan(
    target: str,
    surrogates: Sequence[str],
    members: bool,
    suite: Suite,
    gradients: bool = True,
    opaque: Collection[str] = (),
) -> list[AttackRun]:
    """Return every attack run of an evaluation of one target.

    Args:
        target: Name of the target.
        surrogates: Names of the surrogates.
        members: Whether the target has members that can be attacked one at a time.
        suite: Attacks and budgets.
        gradients: Whether autograd sees through the target; without, no attack needs its gradient.
        opaque: Surrogates that autograd does not see through: what is transferred from them are the
            suite's queries, on as many images as the target is asked about.

    Raises:
        DivtrainError: when a model is called `ONE_MEMBER` or `EVERY_SURROGATE`, or an attack cannot
            be imported or built.
    """
    for name in (target, *surrogates):
        if name in (ONE_MEMBER, EVERY_SURROGATE):
            raise DivtrainError(f"{name!r} means something else in tables; rename that model")

    def run(
        threat: Threat, source: str, name: str, eps: float, images: int | None = None,
        sweep: bool = False,
    ) -> AttackRun:  # fmt: skip
        check_family(name, threat)
        found = find_attack(name)
        budgets = {each: getattr(suite, of) for each, of in found.budgeted.items()}
        made = AttackRun(
            threat, source, name, eps, images, **budgets, sweep=sweep, family=found.family
        )
        made.build()  # what cannot be built is told before anything is computed
        return made

    plan: list[AttackRun] = []
    seen = [each for each in surrogates if each not in opaque]
    blind = [each for each in surrogates if each in opaque]
    for eps in suite.eps:
        plan += [run("noise", target, name, eps) for name in suite.noise]
        plan += [run("transfer", each, name, eps) for each in seen for name in suite.transfer]
        if suite.transfer:
            few = suite.probe_images
            plan += [
                run("transfer", each, name, eps, few) for each in blind for name in suite.query
            ]
        if gradients:
            plan += [run("white-box", target, name, eps) for name in suite.white_box]
        if gradients and members and suite.white_box:
            few = suite.probe_images
            plan += [run("white-box", ONE_MEMBER, name, eps, few) for name in suite.members]
        plan += [run("query", target, name, eps, suite.probe_images) for name in suite.query]
    for eps in suite.sweep:
        few = suite.sweep_images
        if gradients and suite.white_box:
            plan.append(run("white-box", target, suite.sweep_attack, eps, few, sweep=True))
        if seen and suite.transfer:
            plan.append(run("transfer", seen[0], "mifgsm", eps, few, sweep=True))
    return plan
