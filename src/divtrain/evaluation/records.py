"""What an evaluation yields: one record per number, and its warning signs."""

from divtrain.data import Split
from divtrain.evaluation.intervals import wilson_interval
from divtrain.evaluation.threat import Threat
from divtrain.fields import Count, NotNegative, Share, Whole, checked

CLEAN = "clean"
WORST = "worst"
"""Name of the pseudo-attack that takes, image by image, the best of all attacks at one eps."""


@checked
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
        forward: Forward passes through the attacked model, mean per image; 0 where not counted.
        backward: Backward passes through it.
        split: Which images: the test images, or some held out of the training images.
    """

    threat: Threat
    surrogate: str
    target: str
    attack: str
    eps: Share
    accuracy: Share
    correct: Whole
    images: Count
    seed: int
    norm: str = "Linf"
    forward: NotNegative = 0.0
    backward: NotNegative = 0.0
    split: Split = "test"

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 % for the accuracy."""
        return wilson_interval(self.correct, self.images)


@checked
class WarningSign:
    """Evidence in an evaluation that its attacks were too weak.

    Attributes:
        name: Short name, as in the documentation.
        target: The target it concerns.
        sentence: What was seen, with its numbers, and what it means.
    """

    name: str
    target: str
    sentence: str

    @property
    def anchor(self) -> str:
        """Where the documentation explains it."""
        return f"docs/reading-results.md#{self.name}"
