"""Attacks, radii and budgets of an evaluation, checked when they are put together."""

import itertools
from dataclasses import replace
from typing import Any

from pydantic import field_validator, model_validator

from divtrain.attacks import ATTACKS, attack_name, find_attack
from divtrain.checks import check_eps
from divtrain.errors import DivtrainError, unknown_name
from divtrain.fields import Count, checked


@checked
class Suite:
    """Attacks, radii and budgets of an evaluation.

    Attacks go by name, see `divtrain.attacks.build_attack`; from Python also by their class, by
    what builds one when it is called with ``eps=...``, or as objects, whose radius is replaced.
    What a name of MODULE:CLASS stands for is imported, and checked, where a plan is made.

    Raises:
        DivtrainError: naming every field that makes no sense, and why.
    """

    eps: tuple[float, ...] = (0.1, 0.3)
    """L-infinity radii in [0, 1] pixel units."""
    transfer: tuple[str, ...] = ("fgsm", "mifgsm", "pgdcw-tenth", "reversed")
    """Crafted on each surrogate: fgsm, rfgsm, ifgsm, mifgsm, pgdcw (the paper's), pgdcw-tenth
    (steps of eps/10, not of 0.01), pgd, apgd, reversed (the step back, for label leaking), nifgsm,
    difgsm, tifgsm, vmifgsm (torchattack), or MODULE:CLASS of your own; most also as
    NAME:OBJECTIVE, with objective mean_member_ce, ce_of_mean_prob, ce_of_mean_logit, margin, dlr or
    reweighted."""
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
    """What is no attack but may hurt as much: noise. Empty for none."""
    members: tuple[str, ...] = ("pgd",)
    """White-box attacks on one member of the target at a time, where there are others on the whole;
    empty for none."""
    steps: Count = 20
    """Steps of pgd and of each run of apgd and apgdt."""
    restarts: Count = 1
    """Runs of pgd and apgd, each at the images not fooled before."""
    target_classes: Count = 3
    """How many wrong classes apgdt aims at, a run each; AutoAttack tries 9."""
    queries: Count = 200
    """Queries of square."""
    probe_images: Count = 200
    """square, and the attack on one member at a time, try this many images, evenly chosen."""
    sweep: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
    """Radii of the curve; include 0.5, where every model must fall to chance. Empty for none."""
    sweep_attack: str = "apgd:ce_of_mean_logit"
    """White-box attack of the curve; the first transfer surrogate is attacked by mifgsm there."""
    sweep_images: Count = 200
    """The curve is over this many images, evenly chosen."""
    batch_size: Count = 128
    """Images attacked at a time."""

    @field_validator("transfer", "white_box", "query", "noise", "members", mode="before")
    @classmethod
    def _name_classes(cls, names: Any) -> Any:
        if not isinstance(names, (list, tuple)):
            return names
        return tuple(each if isinstance(each, str) else attack_name(each) for each in names)

    @field_validator("eps", "sweep")
    @classmethod
    def _check_radii(cls, radii: tuple[float, ...], info: Any) -> tuple[float, ...]:
        for eps in radii:
            check_eps(eps)
        shown = " ".join(f"{eps:g}" for eps in radii)
        if any(later <= earlier for earlier, later in itertools.pairwise(radii)):
            raise DivtrainError(f"expected radii in rising order, each once, got {shown}")
        if len(set(shown.split())) < len(radii):  # as they are printed
            raise DivtrainError(f"expected radii that differ within six digits, got {shown}")
        if info.field_name == "eps" and not radii:
            raise DivtrainError("expected at least one radius")
        if info.field_name == "eps" and radii[0] <= 0:
            raise DivtrainError("expected radii above 0; the clean accuracy is always there")
        return radii

    @field_validator("transfer", "white_box", "query", "noise", "members")
    @classmethod
    def _check_names(cls, names: tuple[str, ...], info: Any) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise DivtrainError(f"expected each attack once, got {', '.join(names)}")
        for name in filter(_is_known, names):
            check_family(name, info.field_name)
        return names

    @field_validator("sweep_attack")
    @classmethod
    def _check_sweep_attack(cls, name: str) -> str:
        if _is_known(name):
            find_attack(name)
        return name

    @property
    def attacks(self) -> tuple[str, ...]:
        """Every attack by name, whatever it is used for."""
        curve = (self.sweep_attack,) if self.sweep else ()
        return (*self.transfer, *self.white_box, *self.query, *self.noise, *self.members, *curve)

    @model_validator(mode="after")
    def _check_any(self) -> "Suite":
        if not self.transfer and not self.white_box and not self.query:
            raise DivtrainError(
                "expected at least one attack in `transfer`, `white_box` or `query`"
            )
        return self


def _is_known(name: str) -> bool:
    """Whether an attack is ours, rather than MODULE:NAME, which only a plan may import.

    Raises:
        DivtrainError: when it can be neither.
    """
    head, colon, _ = name.partition(":")
    if head not in ATTACKS and not colon:
        raise unknown_name("attack", name, ATTACKS)
    return head in ATTACKS


def check_family(name: str, field: str) -> None:
    """Check that an attack may stand in a field of `Suite`; one of MODULE:NAME is imported.

    Raises:
        DivtrainError: for an unknown attack, or gradients among queries or noise.
    """
    family = find_attack(name).family
    if field in ("query", "noise") and family != field:
        known = {"query": "square", "noise": "noise"}[field]
        raise DivtrainError(f"expected {known} in `{field}`, got {name}, which is {family}")


def check_channels(suite: Suite, channels: int) -> None:
    """Check that every attack of a suite takes images of so many channels.

    Raises:
        DivtrainError: naming the first that does not.
    """
    for name in suite.attacks:
        only = getattr(ATTACKS.get(name.partition(":")[0]), "channels", None)
        if only not in (None, channels):
            raise DivtrainError(
                f"attack {name!r} takes images of {only} channels, these have {channels}; leave it"
                " out"
            )


PAPER_SUITE = Suite(
    transfer=("fgsm", "rfgsm", "ifgsm", "mifgsm", "pgdcw"),
    white_box=("mifgsm", "mifgsm:ce_of_mean_logit"),
    query=(),
    noise=(),
    members=(),
    sweep=(),
)
"""The paper's five attacks, transferred. White-box, one of them also on the mean logit: the mean of
the members' losses understates attacks on diverse members, whose gradients cancel."""


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
