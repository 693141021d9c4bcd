"""Which attacks an evaluation makes: a list, as data, that any engine can work off."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from divtrain.attacks import Attack, build_attack
from divtrain.errors import DivtrainError
from divtrain.evaluation.threat import Threat, ThreatModel

ONE_MEMBER = "one member at a time"
"""What a white-box adversary attacks instead of the whole ensemble; it stands as a surrogate."""


@dataclass(frozen=True)
class Suite:
    """Attacks, radii and budgets of an evaluation; each field is a flag of the command line."""

    eps: tuple[float, ...] = (0.1, 0.3)
    """L-infinity radii in [0, 1] pixel units."""
    transfer: tuple[str, ...] = ("fgsm", "mifgsm", "pgdcw", "reversed")
    """Crafted on each surrogate: fgsm, rfgsm, ifgsm, mifgsm, pgdcw (the paper's), pgd, apgd,
    reversed (the step back, for label leaking), nifgsm, difgsm, tifgsm, vmifgsm (torchattack);
    most also as NAME:OBJECTIVE, with objective mean_member_ce, ce_of_mean_prob, ce_of_mean_logit,
    margin, dlr or reweighted."""
    white_box: tuple[str, ...] = (
        "fgsm",
        "mifgsm",
        "pgd",
        "pgd:reweighted",
        "apgd",
        "apgd:ce_of_mean_logit",
    )
    """Crafted on the target itself: those above, and apgdt (targeted), autoattack."""
    query: tuple[str, ...] = ("square",)
    """From the target's answers alone: square. Empty for none."""
    noise: tuple[str, ...] = ("noise",)
    """Random perturbations, which every attack must beat. Empty for none."""
    members: tuple[str, ...] = ("pgd",)
    """White-box attacks on one member at a time. Empty for none."""
    steps: int = 20
    """Steps of pgd and of each run of apgd and apgdt."""
    restarts: int = 1
    """Runs of pgd and apgd, each at the images not fooled before."""
    target_classes: int = 3
    """How many wrong classes apgdt aims at, a run each; AutoAttack tries 9."""
    queries: int = 200
    """Queries of square."""
    probe_images: int = 200
    """square, and the attack on one member at a time, try this many images, evenly chosen."""
    sweep: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
    """Radii of the curve; include 0.5, where every model must fall to chance. Empty for none."""
    sweep_attack: str = "apgd:ce_of_mean_logit"
    """White-box attack of the curve; the first transfer surrogate is attacked by mifgsm there."""
    sweep_images: int = 200
    """The curve is over this many images, evenly chosen."""
    batch_size: int = 128
    """Images attacked at a time."""


PAPER_SUITE = Suite(
    eps=(0.1, 0.3),
    transfer=("fgsm", "rfgsm", "ifgsm", "mifgsm", "pgdcw"),
    white_box=("mifgsm", "mifgsm:ce_of_mean_logit"),
    query=(),
    noise=(),
    members=(),
    sweep=(),
)


def quick(suite: Suite) -> Suite:
    """Return a suite with the same radii and a fraction of the work: to look, not to judge."""
    return replace(
        suite,
        transfer=("fgsm", "mifgsm", "reversed"),
        white_box=("fgsm", "mifgsm", "pgd", "pgd:reweighted", "apgd:ce_of_mean_logit"),
        steps=10,
        restarts=1,
        queries=100,
        probe_images=50,
        sweep=tuple(eps for eps in (0.0, 0.1, 0.3, 0.5) if suite.sweep),
        sweep_images=50,
    )


@dataclass(frozen=True)
class AttackRun:
    """One attack at one radius, on one model, on some of the images.

    Attributes:
        threat: What the adversary knows.
        source: What is attacked: a surrogate's name, the target's own (white-box, query, noise),
            or `ONE_MEMBER`.
        attack: Name of the attack.
        eps: L-infinity radius.
        images: How many images, evenly chosen; None for all.
        steps: Steps of a search, queries of square; None for the attack's own.
        restarts: Runs of a search; None for the attack's own.
        sweep: Whether it is a point of the curve rather than of the table.
    """

    threat: Threat
    source: str
    attack: str
    eps: float
    images: int | None = None
    steps: int | None = None
    restarts: int | None = None
    sweep: bool = False

    @property
    def threat_model(self) -> ThreatModel:
        """The adversary."""
        return ThreatModel(self.threat, self.eps, self.source)

    def build(self) -> Attack:
        """Return the attack."""
        return build_attack(
            self.attack,
            self.eps,
            steps=self.steps,
            restarts=self.restarts,
            white_box=self.threat != "transfer" and self.source != ONE_MEMBER,
        )


def check_suite(suite: Suite) -> None:
    """Check names, radii and budgets.

    Raises:
        DivtrainError: before anything is computed.
    """
    if not suite.eps:
        raise DivtrainError("expected at least one --attack.eps")
    if not suite.transfer and not suite.white_box and not suite.query:
        raise DivtrainError(
            "expected at least one attack in --attack.transfer, --attack.white-box or"
            " --attack.query"
        )
    for name, values in (("eps", suite.eps), ("sweep", suite.sweep)):
        if any(later <= earlier for earlier, later in itertools.pairwise(values)):
            raise DivtrainError(
                f"expected --attack.{name} in rising order, each once, got"
                f" {' '.join(f'{eps:g}' for eps in values)}"
            )
    for radii in (suite.eps, suite.sweep):
        if len({f"{eps:g}" for eps in radii}) < len(radii):  # as folders are named
            raise DivtrainError("expected radii that differ within six digits")
    if suite.eps[0] <= 0:
        raise DivtrainError("expected --attack.eps above 0; the clean accuracy is always there")
    for names in (suite.transfer, suite.white_box, suite.query):
        if len(set(names)) < len(names):
            raise DivtrainError(f"expected each attack once, got {', '.join(names)}")
    counts = [n for n, value in vars(suite).items() if type(value) is int]
    for name in counts:
        if getattr(suite, name) < 1:
            flag = name.replace("_", "-")
            raise DivtrainError(f"expected --attack.{flag} >= 1, got {getattr(suite, name)}")
    if any(name.partition(":")[0] != "square" for name in suite.query):
        raise DivtrainError(f"expected square in --attack.query, got {', '.join(suite.query)}")
    for attempt in make_plan("target", ["surrogate"], True, suite):
        attempt.build()


def make_plan(
    target: str, surrogates: Sequence[str], members: bool, suite: Suite, gradients: bool = True
) -> list[AttackRun]:
    """Return everything an evaluation of one target tries.

    Args:
        target: Name of the target.
        surrogates: Names of the surrogates.
        members: Whether the target has members that can be attacked one at a time.
        suite: Attacks and budgets.
        gradients: Whether autograd sees through the target; without, no attack needs its gradient.
    """
    plan: list[AttackRun] = []
    for eps in suite.eps:
        plan.append(AttackRun("noise", target, "noise", eps))
        plan += [
            _run("transfer", name, attack, eps, suite)
            for name in surrogates
            for attack in suite.transfer
        ]
        if gradients:
            plan += [_run("white-box", target, name, eps, suite) for name in suite.white_box]
        if gradients and members and suite.white_box:
            alone = _run("white-box", ONE_MEMBER, "pgd", eps, suite)
            plan.append(replace(alone, images=suite.probe_images))
        plan += [
            AttackRun("query", target, name, eps, suite.probe_images, suite.queries)
            for name in suite.query
        ]
    for eps in suite.sweep:
        drawn = {"images": suite.sweep_images, "sweep": True}
        if gradients and suite.white_box:
            point = _run("white-box", target, suite.sweep_attack, eps, suite)
            plan.append(replace(point, **drawn))
        if surrogates and suite.transfer:
            plan.append(replace(AttackRun("transfer", surrogates[0], "mifgsm", eps), **drawn))
    return plan


def _run(threat: Threat, source: str, attack: str, eps: float, suite: Suite) -> AttackRun:
    kind = attack.partition(":")[0]
    if kind in ("pgd", "apgd"):
        return AttackRun(threat, source, attack, eps, None, suite.steps, suite.restarts)
    if kind == "apgdt":
        return AttackRun(threat, source, attack, eps, None, suite.steps, suite.target_classes)
    return AttackRun(threat, source, attack, eps)
