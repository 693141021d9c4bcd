"""One target under everything an evaluation tries: masks in, records out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from divtrain.checks import check_images, check_label_shape
from divtrain.data import Images
from divtrain.ensemble import Ensemble
from divtrain.errors import DivtrainError
from divtrain.evaluation.crafting import CraftedSet, OnBatch, Violations, craft
from divtrain.evaluation.diagnosis import Diagnosis, diagnose
from divtrain.evaluation.effort import Passes, rise_at_the_end
from divtrain.evaluation.parts import Parts
from divtrain.evaluation.plan import ONE_MEMBER, AttackRun, Suite, check_suite, make_plan
from divtrain.evaluation.records import CLEAN, WORST, Record
from divtrain.evaluation.threat import Threat
from divtrain.evaluation.transfer import check_same_task, correct_mask

DIAGNOSED = 256
"""Clean images that a diagnosis looks at."""
EVERY_SURROGATE = "all surrogates"


@dataclass(frozen=True)
class AttackResult:
    """What one attempt came to.

    Attributes:
        correct: Which of the attempt's images the target still classifies right.
        source: Accuracy of the surrogate on what was crafted on it, for transferred attempts.
        passes: Passes through the attacked model, mean per image.
        violations: What the attack returned outside the threat model; all of it was mended.
        rise: Share of the objective's rise in the last quarter of the steps, at images not fooled
            (see `rise_at_the_end`); None where it cannot be told.
        members: For `ONE_MEMBER`: which images each member classifies right under the attack on
            itself, (member, image).
        digest: SHA-256 of the float32 adversarial examples; empty where they were not kept.
    """

    correct: Bool[Tensor, "image"]
    passes: Passes
    violations: Violations
    source: float | None = None
    rise: float | None = None
    members: Bool[Tensor, "member image"] | None = None
    digest: str = ""


@dataclass(frozen=True)
class SurrogateCheck:
    """What a surrogate is worth.

    Attributes:
        clean: Its accuracy on the clean images, in [0, 1].
        diagnosis: What was seen on it.
    """

    clean: float
    diagnosis: Diagnosis


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on one target.

    Attributes:
        target: Its name.
        clean: Which clean images it classifies right.
        results: What each attempt came to, in the order of the plan.
        diagnosis: What was seen before any attack.
        seed: Of random starts.
        surrogates: What was seen on each surrogate before any attack, and its clean accuracy.
        chance: Accuracy of always answering the most frequent class.
    """

    target: str
    clean: Bool[Tensor, "image"]
    results: Mapping[AttackRun, AttackResult]
    diagnosis: Diagnosis
    seed: int = 0
    surrogates: Mapping[str, SurrogateCheck] = field(default_factory=dict)
    chance: float = 0.1

    def __repr__(self) -> str:
        """What it is, and what to ask it for."""
        return (
            f"Evaluation of {self.target!r}: {len(self.clean)} images,"
            f" {self.clean.float().mean():.1%} right when clean, {len(self.results)} attempts;"
            " see .records(), .curve() and divtrain.evaluation.warning_signs_of"
        )

    def correct_on_all(self, attempt: AttackRun) -> Bool[Tensor, "image"]:
        """Mask over all images; those the attempt left out count as not fooled by it."""
        mask = self.results[attempt].correct
        if attempt.images is None:
            return mask
        whole = torch.ones_like(self.clean)
        whole[chosen_images(len(whole), attempt.images)] = mask
        return whole

    def runs(self, threat: Threat, eps: float) -> list[AttackRun]:
        """Attempts of the table (not of the curve) of a threat at a radius."""
        return [a for a in self.results if (a.threat, a.eps, a.sweep) == (threat, eps, False)]

    def eps(self) -> list[float]:
        """Radii of the table."""
        return sorted({attempt.eps for attempt in self.results if not attempt.sweep})

    def records(self) -> list[Record]:
        """Accuracies of the table: every attempt, and per-image worst cases.

        A worst case at a radius stands for each surrogate, for all surrogates together where there
        are several, and for the white-box adversary, who has every other attack of the list too.
        """
        found = [self._record("clean", "", CLEAN, 0.0, self.clean)]
        for eps in self.eps():
            for threat in ("noise", "query"):
                found += [self._of(attempt) for attempt in self.runs(threat, eps)]
            transfer = self.runs("transfer", eps)
            sources = list(dict.fromkeys(attempt.source for attempt in transfer))
            for source in sources:
                mine = [attempt for attempt in transfer if attempt.source == source]
                found += [self._of(attempt) for attempt in mine]
                found.append(self._worst("transfer", source, eps, mine))
            if len(sources) > 1:
                found.append(self._worst("transfer", EVERY_SURROGATE, eps, transfer))
            white = self.runs("white-box", eps)
            found += [self._of(attempt) for attempt in white]
            if white:
                others = [*transfer, *self.runs("query", eps), *self.runs("noise", eps)]
                found.append(self._worst("white-box", self.target, eps, white + others))
        return found

    def curve(self) -> list[Record]:
        """Accuracies of the sweep over eps."""
        return [self._of(attempt) for attempt in self.results if attempt.sweep]

    def _of(self, attempt: AttackRun) -> Record:
        outcome = self.results[attempt]
        mask, passes = outcome.correct, outcome.passes
        return self._record(
            attempt.threat, attempt.source, attempt.attack, attempt.eps, mask, passes
        )

    def _worst(self, threat: Threat, source: str, eps: float, of: Sequence[AttackRun]) -> Record:
        masks = [self.clean, *(self.correct_on_all(attempt) for attempt in of)]
        passes = [self.results[attempt].passes for attempt in of]
        spent = Passes(sum(p.forward for p in passes), sum(p.backward for p in passes))
        return self._record(threat, source, WORST, eps, torch.stack(masks).all(0), spent)

    def _record(
        self,
        threat: Threat,
        source: str,
        attack: str,
        eps: float,
        mask: Tensor,
        passes: Passes | None = None,
    ) -> Record:
        passes = passes or Passes()
        right = int(mask.sum())
        return Record(
            threat, source, self.target, attack, eps, right / len(mask), right, len(mask),
            self.seed, forward=round(passes.forward, 3), backward=round(passes.backward, 3),
        )  # fmt: skip


def chosen_images(total: int, count: int | None) -> Tensor:
    """Indices of `count` images spread evenly over `total`; all of them for None.

    >>> chosen_images(10, 4).tolist()
    [0, 2, 5, 7]
    """
    count = total if count is None else min(count, total)
    return torch.arange(count) * total // count


def evaluate(
    target: nn.Module,
    images: Images,
    surrogates: Mapping[str, nn.Module] | None = None,
    suite: Suite | None = None,
    target_name: str = "target",
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> Evaluation:
    """Evaluate one target: noise, queries, transfer from every surrogate, white-box, the curve.

    Args:
        target: Any module from images in [0, 1] to logits or log-probabilities, (batch, class).
        images: Clean images and true labels.
        surrogates: Models to transfer attacks from, by name; none leaves the transfer rows out.
        suite: Attacks and budgets.
        target_name: What records call the target.
        seed: Of random starts.
        on_batch: For showing progress.

    Returns:
        An `Evaluation`: records, curve, and what `warning_signs_of` needs.

    Raises:
        DivtrainError: for bad images, labels or suites, outputs that do not fit, or a surrogate of
            other classes or another input size. Nothing is attacked before all that is checked.
    """
    suite, surrogates = suite or Suite(), {} if surrogates is None else surrogates
    if not isinstance(images, Images):
        raise DivtrainError(
            f"expected images and labels as divtrain.data.Images(x, y), got {type(images).__name__}"
        )
    check_images(images.x)
    check_label_shape(images.y, len(images.x))
    if not isinstance(surrogates, Mapping):
        raise DivtrainError(
            "expected surrogates as a mapping from names to modules, such as {'plain': model}, got"
            f" {type(surrogates).__name__}"
        )
    check_suite(suite)
    if target_name in surrogates:
        raise DivtrainError(f"{target_name!r} names both target and surrogate; rename one")
    for name, surrogate in surrogates.items():
        if surrogate is target:
            raise DivtrainError(
                f"surrogate {name!r} is the target itself, which is white-box and done anyway"
            )
        check_same_task(surrogate, target, images, name)
    clean = correct_mask(target, images.x, images.y)
    diagnosis = diagnose_target(target, images)
    members = isinstance(target, Ensemble) and len(target) > 1
    plan = make_plan(target_name, list(surrogates), members, suite, diagnosis.differentiable)
    outcomes: dict[AttackRun, AttackResult] = {}
    for attempt in plan:
        some = some_images(images, attempt.images)
        if attempt.source == ONE_MEMBER:
            assert isinstance(target, Ensemble)
            sets = craft_on_members(attempt, target, some, suite.batch_size, seed)
            outcomes[attempt] = judge_members(sets, target, some)
            continue
        surrogate = surrogates.get(attempt.source)
        crafted = craft_attempt(
            attempt, surrogate or target, some, suite.batch_size, seed, on_batch
        )
        outcomes[attempt] = judge(crafted, target, some, surrogate)
    checks = {name: check_surrogate(each, images) for name, each in surrogates.items()}
    return Evaluation(target_name, clean, outcomes, diagnosis, seed, checks, chance_level(images.y))


def diagnose_target(target: nn.Module, images: Images) -> Diagnosis:
    """Look at the target on a few hundred of the images."""
    return diagnose(target, some_images(images, DIAGNOSED))


def craft_attempt(
    attempt: AttackRun,
    model: nn.Module,
    images: Images,
    batch_size: int,
    seed: int,
    on_batch: OnBatch | None = None,
    parts: Parts | None = None,
) -> CraftedSet:
    """Craft what an attempt asks for, on the model it names."""
    return craft(attempt.build(), model, images, batch_size, seed, on_batch, parts)


def craft_on_members(
    attempt: AttackRun,
    target: Ensemble,
    images: Images,
    batch_size: int,
    seed: int,
    on_batch: OnBatch | None = None,
    parts: Parts | None = None,
) -> list[CraftedSet]:
    """Craft what an attempt asks for on each member alone."""
    attack = attempt.build()
    return [
        craft(
            attack, member, images, batch_size, seed, on_batch,
            None if parts is None else parts.named(str(index)),
        )
        for index, member in enumerate(target.members)
    ]  # fmt: skip


def check_surrogate(surrogate: nn.Module, images: Images) -> SurrogateCheck:
    """Look at a surrogate as at a target: a useless one makes every target look robust."""
    clean = correct_mask(surrogate, images.x, images.y).float().mean().item()
    return SurrogateCheck(clean, diagnose_target(surrogate, images))


def chance_level(y: Tensor) -> float:
    """Accuracy of always answering the most frequent class.

    >>> chance_level(torch.tensor([0, 1, 1, 2]))
    0.5
    """
    return y.bincount().max().item() / len(y)


def judge(
    crafted: CraftedSet, target: nn.Module, images: Images, surrogate: nn.Module | None
) -> AttackResult:
    """Let the target classify a crafted set, and the surrogate it was crafted on, if any."""
    correct = correct_mask(target, crafted.x_adv, images.y)
    if surrogate is not None:
        fooled = correct_mask(surrogate, crafted.x_adv, images.y).float().mean().item()
        return AttackResult(correct, crafted.passes, crafted.violations, source=fooled)
    grown = crafted.growth
    rise = None if grown is None else rise_at_the_end(grown, ~correct)
    return AttackResult(correct, crafted.passes, crafted.violations, rise=rise)


def judge_members(sets: Sequence[CraftedSet], target: Ensemble, images: Images) -> AttackResult:
    """Let the ensemble classify what was crafted on each member, and each member its own."""
    masks = [correct_mask(target, crafted.x_adv, images.y) for crafted in sets]
    own = torch.stack(
        [
            correct_mask(member, crafted.x_adv, images.y)
            for member, crafted in zip(target.members, sets, strict=True)
        ]
    )
    count = len(sets)
    passes = Passes(
        sum(crafted.passes.forward for crafted in sets) / count,
        sum(crafted.passes.backward for crafted in sets) / count,
    )
    violations = Violations(
        sum(crafted.violations.outside_ball for crafted in sets),
        sum(crafted.violations.outside_bounds for crafted in sets),
        sum(crafted.violations.not_finite for crafted in sets),
    )
    return AttackResult(torch.stack(masks).all(0), passes, violations, members=own)


def some_images(images: Images, count: int | None) -> Images:
    """Return `count` images spread evenly over all; all of them for None."""
    chosen = chosen_images(len(images), count)
    return Images(images.x[chosen], images.y[chosen])
