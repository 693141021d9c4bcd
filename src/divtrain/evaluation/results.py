"""Everything measured on one target: masks in, records and warning signs out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from divtrain.data import Split
from divtrain.evaluation.crafting import Violations
from divtrain.evaluation.diagnosis import Diagnosis
from divtrain.evaluation.effort import Passes
from divtrain.evaluation.plan import EVERY_SURROGATE, AttackRun, chosen_images
from divtrain.evaluation.records import CLEAN, WORST, Record, WarningSign
from divtrain.evaluation.threat import Threat
from divtrain.fields import Share, checked


@dataclass(frozen=True)
class AttackResult:
    """Outcome of one attack run.

    Attributes:
        correct: Which of the run's images the target still classifies right.
        passes: Passes through the attacked model, mean per image.
        violations: What the attack returned outside the threat model; all of it was clipped.
        source: Accuracy of the surrogate on what was crafted on it, for transferred attacks.
        rise: Share of the objective's rise in the last quarter of the steps, at images not fooled
            (see `rise_at_the_end`); None where it cannot be told.
        members: Where each member was attacked alone: which images it classifies right under the
            attack on itself, (member, image).
        digest: SHA-256 of the float32 adversarial examples.
    """

    correct: Bool[Tensor, "image"]
    passes: Passes
    violations: Violations
    source: Share | None = None
    rise: float | None = None
    members: Bool[Tensor, "member image"] | None = None
    digest: str = ""


@checked
class SurrogateCheck:
    """What a surrogate is worth: a useless one makes every target look robust.

    Attributes:
        clean: Its accuracy on the clean images, in [0, 1].
        diagnosis: What was seen on it.
        same_answers: Whether it answers every image looked at as the target does.
        shared_start: Whether its training began with the target's weights.
    """

    clean: Share
    diagnosis: Diagnosis
    same_answers: bool = False
    shared_start: bool = False


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on one target.

    Attributes:
        target: Its name.
        clean: Which clean images it classifies right.
        results: What each attack run came to, in the order of the plan.
        diagnosis: What was seen before any attack.
        seed: Of random starts.
        surrogates: What was seen on each surrogate before any attack, and its clean accuracy.
        chance: Accuracy of always answering the most frequent class.
        split: Which images these are.
        images: Their hash (`Images.digest`).
    """

    target: str
    clean: Bool[Tensor, "image"]
    results: Mapping[AttackRun, AttackResult]
    diagnosis: Diagnosis
    seed: int = 0
    surrogates: Mapping[str, SurrogateCheck] = field(default_factory=dict)
    chance: Share = 0.1
    split: Split = "test"
    images: str = ""

    def __repr__(self) -> str:
        """Summary, and the methods to call."""
        return (
            f"Evaluation of {self.target!r}: {len(self.clean)} images,"
            f" {self.clean.float().mean():.1%} right when clean, {len(self.results)} attack runs;"
            " see .records(), .curve(), .warnings(), .not_asked() and"
            " .save_html(path)"
        )

    def runs(self, threat: Threat, eps: float) -> list[AttackRun]:
        """Attack runs of the table (not of the curve) of a threat at a radius."""
        return [a for a in self.results if (a.threat, a.eps, a.sweep) == (threat, eps, False)]

    def adversary(self, threat: Threat, eps: float, source: str = "") -> list[AttackRun]:
        """Attack runs that an adversary has at a radius: those of a worst case.

        Args:
            threat: A white-box adversary has every other attack too.
            eps: Radius.
            source: The surrogate, for transferred attacks from one alone; all of them if empty.
        """
        runs = [run for run in self.runs(threat, eps) if source in ("", run.source)]
        if runs and threat == "white-box":
            for other in ("transfer", "query", "noise"):
                runs += self.runs(other, eps)
        return runs

    def kept(self, runs: Sequence[AttackRun]) -> Bool[Tensor, "image"]:
        """Which images are right when clean and under every one of some attack runs."""
        return torch.stack([self.clean, *map(self.correct_on_all, runs)]).all(0)

    def eps(self) -> list[float]:
        """Radii of the table."""
        return sorted({run.eps for run in self.results if not run.sweep})

    def records(self) -> list[Record]:
        """Accuracies of the table: every attack, and per-image worst cases.

        A worst case at a radius stands for each surrogate, for all surrogates together where there
        are several, and for the white-box adversary, who has every other attack of the list too.
        The adversary may leave an image alone, so a worst case also counts the clean images.
        """
        found = [self._record(AttackRun("clean", "", CLEAN, 0.0), self.clean, Passes())]
        for eps in self.eps():
            for threat in ("noise", "query"):
                found += [self._of(run) for run in self.runs(threat, eps)]
            transfer = self.runs("transfer", eps)
            sources = list(dict.fromkeys(run.source for run in transfer))
            for source in sources:
                own = self.adversary("transfer", eps, source)
                found += [self._of(run) for run in own]
                found.append(self._worst("transfer", source, eps, own))
            if len(sources) > 1:
                found.append(self._worst("transfer", EVERY_SURROGATE, eps, transfer))
            found += [self._of(run) for run in self.runs("white-box", eps)]
            if white := self.adversary("white-box", eps):
                found.append(self._worst("white-box", self.target, eps, white))
        return found

    def curve(self) -> list[Record]:
        """Accuracies of the sweep over eps."""
        return [self._of(run) for run in self.results if run.sweep]

    def warnings(self) -> list[WarningSign]:
        """Every warning sign that fires: evidence that the attacks were too weak."""
        from divtrain.evaluation.signs import warnings_of  # its functions take an Evaluation

        return warnings_of(self)

    def not_asked(self) -> dict[str, str]:
        """Return the signs that could not have fired, each with the attacks it needs."""
        from divtrain.evaluation.signs import not_asked

        return not_asked(self)

    def save_html(self, path: str | Path, reference: "Evaluation | None" = None) -> Path:
        """Write a report card as one HTML page that needs no other file.

        Args:
            path: The file, e.g. ``card.html``; its folder is made.
            reference: Another target's evaluation on the same images, to compare with.

        Returns:
            The path.

        Raises:
            DivtrainError: for a reference on other images, or a path that cannot be written.
        """
        # By name: the report stands above this module, and what it looks like changes no result.
        return import_module("divtrain.report.card").save_card(self, path, reference)

    def correct_on_all(self, run: AttackRun) -> Bool[Tensor, "image"]:
        """Mask over all images; those that the run left out count as not fooled by it."""
        mask = self.results[run].correct
        if run.images is None:
            return mask
        whole = torch.ones_like(self.clean)
        whole[chosen_images(len(whole), run.images)] = mask
        return whole

    def _of(self, run: AttackRun) -> Record:
        result = self.results[run]
        return self._record(run, result.correct, result.passes)

    def _worst(self, threat: Threat, source: str, eps: float, of: Sequence[AttackRun]) -> Record:
        spent = sum((self.results[run].passes for run in of), start=Passes())
        return self._record(AttackRun(threat, source, WORST, eps), self.kept(of), spent)

    def _record(self, run: AttackRun, mask: Tensor, passes: Passes) -> Record:
        right = int(mask.sum())
        return Record(
            run.threat, run.source, self.target, run.attack, run.eps, right / len(mask), right,
            len(mask), self.seed, forward=round(passes.forward, 3),
            backward=round(passes.backward, 3), split=self.split,
        )  # fmt: skip
