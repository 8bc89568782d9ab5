"""A run in parts: at fractions of the steps something about the model is switched.

A binary student learns first with real weights and binary activations, then with both binary; the
second part may begin as a run of its own, with a fresh optimizer and the schedule from its start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bitcompress.errors import RecipeError


@dataclass(frozen=True)
class Stage:
    """What happens before the step at which a fraction of the run is over.

    `act` sets the model to a state and may be called again when a run is resumed. What it does to
    parameters is overwritten by a checkpoint then; it must not add or remove any.
    Source: ReActNet (ECCV 2020), section 4.1, for two stages, `restart`, and the second without
    weight decay.
    """

    at: float
    act: Callable[[], None]
    restart: bool = False
    """The optimizer forgets, and the schedule runs from its start over the rest of the run."""
    weight_decay: float | None = None
    """The weight decay from here on, of the parameters that have one; None leaves it."""
    name: str = ""

    def step(self, steps: int) -> int:
        """The step before which this stage begins."""
        return round(self.at * steps)


def ordered(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages by their begin. Raises: RecipeError for one outside the run."""
    for stage in stages:
        if not 0 <= stage.at < 1:
            raise RecipeError(f"a stage begins at {stage.at} of the run: give 0 or more, below 1")
    return tuple(sorted(stages, key=lambda stage: stage.at))


def part_of(step: int, steps: int, stages: Sequence[Stage]) -> tuple[int, int]:
    """First step and length of the part of the schedule that a step lies in."""
    cuts = sorted({0, steps, *(stage.step(steps) for stage in stages if stage.restart)})
    for first, last in pairwise(cuts):
        if first <= step < last:
            return first, last - first
    return cuts[-2] if len(cuts) > 1 else 0, max(steps, 1)
