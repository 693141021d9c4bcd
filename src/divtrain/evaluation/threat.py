"""Threat models: what the adversary knows."""

from typing import Literal

Threat = Literal["clean", "noise", "query", "transfer", "white-box"]

KNOWLEDGE: dict[Threat, str] = {
    "clean": "no adversary",
    "noise": "nothing: random noise, no adversary",
    "query": "the target's answers to his queries, not its weights",
    "transfer": "data and method, not the target's weights: crafted on a surrogate of his own",
    "white-box": "everything: the target's weights",
}
