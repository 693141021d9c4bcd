"""Learning rates from step to step."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Literal, get_args

from torch import Tensor

from divtrain.errors import DivtrainError, unknown_name

ScheduleName = Literal["constant", "one_cycle"]
Schedule = ScheduleName | Callable[[int, int], float]
"""``constant`` (the paper's); ``one_cycle``: from a 25th up to the optimiser's rate over three
tenths of the steps, then down to a 10,000th of the start, both as a cosine; or a function of the
step, counted from 0, and the number of steps, that returns a factor of the optimiser's rate."""


def rate_at(schedule: Schedule, step: int, steps: int, rate: float) -> float:
    """Return the learning rate after `step` of `steps` steps; `rate` is the optimiser's.

    Raises:
        DivtrainError: for an unknown name, or a function that returns no factor.
    """
    if callable(schedule):
        factor = schedule(step, steps)
        if not isinstance(factor, (Real, Tensor)) or not 0 <= factor < math.inf:
            raise DivtrainError(
                "expected a `schedule` that returns a factor of the learning rate, a number >= 0,"
                f" got {factor!r} at step {step}"
            )
        return rate * float(factor)
    if schedule == "constant":
        return rate
    if schedule != "one_cycle":
        if not isinstance(schedule, str):
            raise DivtrainError(
                "expected `schedule` to be constant, one_cycle or a function of (step, steps), got"
                f" {schedule!r}"
            )
        raise unknown_name("schedule", schedule, get_args(ScheduleName))
    start, end = rate / 25, rate / 25e4
    peak = max(1, round(0.3 * steps))
    if step < peak:
        return _cosine(start, rate, step / peak)
    return _cosine(rate, end, (step - peak) / max(1, steps - 1 - peak))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
