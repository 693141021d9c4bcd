"""Attacks, radii and budgets of an evaluation, checked when they are put together."""

import itertools
from dataclasses import replace
from typing import Any

from pydantic import field_validator, model_validator
from pydantic.dataclasses import dataclass

from divtrain.attacks import attack_name, build_attack, find_attack
from divtrain.checks import check_eps
from divtrain.errors import DivtrainError
from divtrain.evaluation.bounds import CHECKED, Several


@dataclass(frozen=True, config=CHECKED)
class Suite:
    """Attacks, radii and budgets of an evaluation.

    Attacks go by name, see `divtrain.attacks.build_attack`; from Python also by their class.

    Raises:
        pydantic.ValidationError: a ValueError that names every field that makes no sense, and why.
    """

    eps: tuple[float, ...] = (0.1, 0.3)
    """L-infinity radii in [0, 1] pixel units."""
    transfer: tuple[str, ...] = ("fgsm", "mifgsm", "pgdcw", "reversed")
    """Crafted on each surrogate: fgsm, rfgsm, ifgsm, mifgsm, pgdcw (the paper's), pgd, apgd,
    reversed (the step back, for label leaking), nifgsm, difgsm, tifgsm, vmifgsm (torchattack), or
    MODULE:CLASS of your own; most also as NAME:OBJECTIVE, with objective mean_member_ce,
    ce_of_mean_prob, ce_of_mean_logit, margin, dlr or reweighted."""
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
    steps: Several = 20
    """Steps of pgd and of each run of apgd and apgdt."""
    restarts: Several = 1
    """Runs of pgd and apgd, each at the images not fooled before."""
    target_classes: Several = 3
    """How many wrong classes apgdt aims at, a run each; AutoAttack tries 9."""
    queries: Several = 200
    """Queries of square."""
    probe_images: Several = 200
    """square, and the attack on one member at a time, try this many images, evenly chosen."""
    sweep: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
    """Radii of the curve; include 0.5, where every model must fall to chance. Empty for none."""
    sweep_attack: str = "apgd:ce_of_mean_logit"
    """White-box attack of the curve; the first transfer surrogate is attacked by mifgsm there."""
    sweep_images: Several = 200
    """The curve is over this many images, evenly chosen."""
    batch_size: Several = 128
    """Images attacked at a time."""

    @field_validator("transfer", "white_box", "query", "noise", "members", mode="before")
    @classmethod
    def _name_classes(cls, names: Any) -> Any:
        if not isinstance(names, (list, tuple)):
            return names
        return tuple(attack_name(each) if isinstance(each, type) else each for each in names)

    @field_validator("eps", "sweep")
    @classmethod
    def _check_radii(cls, radii: tuple[float, ...], info: Any) -> tuple[float, ...]:
        for eps in radii:
            check_eps(eps)
        if any(later <= earlier for earlier, later in itertools.pairwise(radii)):
            shown = " ".join(f"{eps:g}" for eps in radii)
            raise DivtrainError(
                f"expected {info.field_name} in rising order, each once, got {shown}"
            )
        if len({f"{eps:g}" for eps in radii}) < len(radii):  # as they are printed
            raise DivtrainError(f"expected {info.field_name} that differ within six digits")
        if info.field_name == "eps" and not radii:
            raise DivtrainError("expected at least one eps")
        if info.field_name == "eps" and radii[0] <= 0:
            raise DivtrainError("expected eps above 0; the clean accuracy is always there")
        return radii

    @field_validator("transfer", "white_box", "query", "noise", "members")
    @classmethod
    def _check_names(cls, names: tuple[str, ...], info: Any) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise DivtrainError(
                f"expected each attack in {info.field_name} once, got {', '.join(names)}"
            )
        for name in names:
            _check_attack(name)
            family = find_attack(name).family
            if info.field_name in ("query", "noise") and family != info.field_name:
                known = {"query": "square", "noise": "noise"}[info.field_name]
                raise DivtrainError(
                    f"expected {known} in {info.field_name}, got {name}, which is {family}"
                )
        return names

    @field_validator("sweep_attack")
    @classmethod
    def _check_sweep_attack(cls, name: str) -> str:
        _check_attack(name)
        return name

    @model_validator(mode="after")
    def _check_any(self) -> "Suite":
        if not self.transfer and not self.white_box and not self.query:
            raise DivtrainError("expected at least one attack in transfer, white_box or query")
        return self


def _check_attack(name: str) -> None:
    build_attack(name, 0.1, **dict.fromkeys(find_attack(name).budgeted, 1))  # pyright: ignore[reportArgumentType]


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
