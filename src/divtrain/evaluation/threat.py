"""Threat models as data: what the adversary may change, and what he knows."""

from dataclasses import dataclass
from typing import Literal

Threat = Literal["clean", "noise", "query", "transfer", "white-box"]

KNOWLEDGE: dict[Threat, str] = {
    "clean": "no adversary",
    "noise": "nothing: random noise, no adversary",
    "query": "the target's answers to his queries, not its weights",
    "transfer": "data and method, not the target's weights: crafted on a surrogate of his own",
    "white-box": "everything: the target's weights",
}


@dataclass(frozen=True)
class ThreatModel:
    """An adversary.

    Attributes:
        threat: What he knows, see `KNOWLEDGE`.
        eps: How far each pixel may move, in [0, 1] pixel units.
        surrogate: What he crafts on: a surrogate's name, or the target's own when white-box.
        norm: Norm of the ball; divtrain's attacks know L-infinity.
        low: Smallest pixel allowed.
        high: Largest pixel allowed.
    """

    threat: Threat
    eps: float
    surrogate: str = ""
    norm: str = "Linf"
    low: float = 0.0
    high: float = 1.0

    def __str__(self) -> str:
        """One line that names the adversary."""
        source = f" ({self.surrogate})" if self.threat == "transfer" and self.surrogate else ""
        bounds = f"pixels in [{self.low:g}, {self.high:g}]"
        return f"{self.threat}{source}, {self.norm} eps {self.eps:g}, {bounds}"
