"""Label smoothing, a control: softer answers without diversity."""

from dataclasses import dataclass

from divtrain.defences.base import Defence
from divtrain.defences.terms import CrossEntropy, Term


@dataclass(frozen=True)
class LabelSmoothing(Defence):
    """Cross-entropy with smoothed labels (Szegedy et al. 2016, arXiv 1512.00567), on D'.

    ADP's entropy term also keeps the answer from being sure; this shows how much of what it gains
    that does alone. Short gradients may be masking, not robustness: look at the warning signs.

    Cost: 1 plain step.

    Attributes:
        smoothing: Probability that is spread over all classes evenly, in [0, 1); usually 0.1.
    """

    smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        CrossEntropy(smoothing=self.smoothing)

    @property
    def terms(self) -> tuple[Term, ...]:
        """Cross-entropy with the smoothed labels."""
        return (CrossEntropy(smoothing=self.smoothing),)
