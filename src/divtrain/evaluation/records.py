"""What an evaluation yields: one record a number, with everything needed to read it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from divtrain.data import Split
from divtrain.errors import DivtrainError
from divtrain.evaluation.intervals import wilson_interval
from divtrain.evaluation.threat import Threat, ThreatModel

CLEAN = "clean"
WORST = "worst"
"""Name of the pseudo-attack that takes, image by image, the best of all attacks at one eps."""


@dataclass(frozen=True)
class Record:
    """Accuracy of one target under one attack.

    Attributes:
        threat: What the adversary knows, see `divtrain.evaluation.threat.KNOWLEDGE`.
        surrogate: What the examples were crafted on; empty for clean ones.
        target: What was asked to classify them.
        attack: Attack name, ``clean``, or ``worst``.
        eps: L-infinity radius in [0, 1] pixel units.
        accuracy: Share of all images classified right, in [0, 1].
        correct: Images classified right.
        images: The denominator: all images, not only those classified right when clean.
        seed: Seed of the experiment.
        norm: Norm of the ball.
        forward: Passes forward through the attacked model, mean per image; 0 where not counted.
        backward: Passes back through it.
        split: Which images: the test images, or some held out of the training images.
    """

    threat: Threat
    surrogate: str
    target: str
    attack: str
    eps: float
    accuracy: float
    correct: int
    images: int
    seed: int
    norm: str = "Linf"
    forward: float = 0.0
    backward: float = 0.0
    split: Split = "test"

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 % for the accuracy."""
        return wilson_interval(self.correct, self.images)

    @property
    def threat_model(self) -> ThreatModel:
        """The adversary."""
        return ThreatModel(self.threat, self.eps, self.surrogate, self.norm)


def worst_case(masks: Mapping[str, Bool[Tensor, "image"]]) -> Bool[Tensor, "image"]:
    """Images that no attack fools: right under every mask."""
    return torch.stack(list(masks.values())).all(0)


def make_records(
    target: str,
    surrogate: str,
    clean: Bool[Tensor, "image"],
    fooled_not: Mapping[tuple[str, float], Bool[Tensor, "image"]],
    seed: int,
    also: Mapping[tuple[str, float], Bool[Tensor, "image"]] | None = None,
) -> list[Record]:
    """Turn per-image success masks into records, the per-image worst case at each eps included.

    Args:
        target: Name of the target.
        surrogate: Name of what was attacked; the target's own name means white-box.
        clean: Which clean images the target classifies right.
        fooled_not: For each (attack, eps), which adversarial examples it classifies right.
        seed: Seed of the experiment.
        also: Masks of attacks from elsewhere that this adversary could use too, e.g. transferred
            ones for a white-box adversary: they count in the worst case only.

    Returns:
        A clean record, then for each eps one an attack and the worst case. The adversary may
        leave an image alone, so the worst case also requires the clean image to be right.
    """

    def record(threat: Threat, source: str, attack: str, eps: float, mask: Tensor) -> Record:
        correct = int(mask.sum())
        accuracy = correct / len(mask)
        return Record(threat, source, target, attack, eps, accuracy, correct, len(mask), seed)

    for (name, eps), mask in [*fooled_not.items(), *(also or {}).items()]:
        if mask.shape != clean.shape:
            raise DivtrainError(
                f"expected a mask of {len(clean)} images for {name} at eps {eps}, got"
                f" {tuple(mask.shape)}"
            )
    threat: Threat = "white-box" if surrogate == target else "transfer"
    records = [record("clean", "", CLEAN, 0.0, clean)]
    for eps in sorted({eps for _, eps in fooled_not}):
        masks = {name: mask for (name, at), mask in fooled_not.items() if at == eps}
        records += [record(threat, surrogate, name, eps, mask) for name, mask in masks.items()]
        more = {f"{name} {at}": mask for (name, at), mask in (also or {}).items() if at == eps}
        worst = worst_case({CLEAN: clean, **masks, **more})
        records.append(record(threat, surrogate, WORST, eps, worst))
    return records
