"""Learning rates from step to step."""

import math
from collections.abc import Callable
from typing import Literal, get_args

from divtrain.errors import unknown_name

ScheduleName = Literal["constant", "one_cycle"]
Schedule = ScheduleName | Callable[[int, int], float]
"""``constant`` (the paper's); ``one_cycle``: from a 25th up to the optimiser's rate over three
tenths of the steps, then down to a 10,000th of the start, both as a cosine; or a function of the
step, counted from 0, and the number of steps, that returns a factor of the optimiser's rate."""


def rate_at(schedule: Schedule, step: int, steps: int, rate: float) -> float:
    """Return the learning rate after `step` of `steps` steps; `rate` is the optimiser's.

    Raises:
        DivtrainError: for an unknown name.
    """
    if callable(schedule):
        return rate * schedule(step, steps)
    if schedule == "constant":
        return rate
    if schedule != "one_cycle":
        raise unknown_name("schedule", schedule, get_args(ScheduleName))
    start, end = rate / 25, rate / 25e4
    peak = max(1, round(0.3 * steps))
    if step < peak:
        return _cosine(start, rate, step / peak)
    return _cosine(rate, end, (step - peak) / max(1, steps - 1 - peak))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
