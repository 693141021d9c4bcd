"""Threat models: what the adversary knows."""

from typing import Literal

Threat = Literal["clean", "noise", "query", "transfer", "white-box"]

KNOWLEDGE: dict[Threat, str] = {
    "clean": "no attacker",
    "noise": "nothing: random noise, no attacker",
    "query": "the target's answers to queries, not its weights",
    "transfer": "data and method, not the target's weights: made on a surrogate and copied",
    "white-box": "everything: the target's weights",
}
