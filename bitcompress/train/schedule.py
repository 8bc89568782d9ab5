"""The learning rate as a function of the step, relative to its largest value."""

from __future__ import annotations

import math
from collections.abc import Callable

from bitcompress.errors import RecipeError
from bitcompress.train.config import FitConfig


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _linear(done: float) -> float:
    return 1 - done


def _constant(done: float) -> float:
    return 1.0


def _one_cycle(done: float) -> float:
    """From 1/25 up over the first 3/10, then down to 1/10000 of that, both along a cosine.

    Source: Smith and Topin 2018, with the constants of torch's OneCycleLR, momentum left alone.
    """
    rise, low, end = 0.3, 1 / 25, 1 / 25e4
    if done < rise:
        return 1 + (low - 1) * _cosine(done / rise)
    return end + (1 - end) * _cosine((done - rise) / (1 - rise))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "onecycle": _one_cycle,
}
"""From the share of the run that is over to the factor on the learning rate."""


def rate(step: int, config: FitConfig, first: int = 0, length: int | None = None) -> float:
    """The factor on the learning rate at a step: warm-up, then the schedule.

    A part of a run that begins at `first` and has `length` steps is a run of its own.
    Raises: RecipeError for a schedule that is not in SCHEDULES.
    """
    if config.schedule not in SCHEDULES:
        raise RecipeError(f"schedule {config.schedule!r} is none of {', '.join(SCHEDULES)}")
    steps = config.steps if length is None else length
    step -= first
    if step < config.warmup:
        return (step + 1) / config.warmup
    return SCHEDULES[config.schedule](step // config.epoch * config.epoch / steps)
