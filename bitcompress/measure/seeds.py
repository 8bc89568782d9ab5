"""What several seeds say: means with their standard errors, and whether an order is decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ERRORS = 2.0
"""An order within so many standard errors is no order."""


@dataclass(frozen=True)
class Mean:
    """The mean of a figure over seeds, and its standard error; one seed has none."""

    value: float
    error: float | None
    count: int

    @classmethod
    def of(cls, figures: Sequence[float]) -> Mean:
        """The mean of at least one figure."""
        value = sum(figures) / len(figures)
        if len(figures) < 2:
            return cls(value, None, len(figures))
        spread = sum((f - value) ** 2 for f in figures) / (len(figures) - 1)
        return cls(value, math.sqrt(spread / len(figures)), len(figures))

    def text(self, digits: int = 2) -> str:
        """The mean, with its standard error where there is one."""
        error = "" if self.error is None else f" ± {self.error:.{digits}f}"
        return f"{self.value:.{digits}f}{error}"


def difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Mean | None:
    """Ours minus theirs by seed, paired: what both have of a seed alone; None without a pair."""
    seeds = sorted(set(ours) & set(theirs))
    return Mean.of([ours[seed] - theirs[seed] for seed in seeds]) if seeds else None


def order(
    ours: Mapping[int, float], theirs: Mapping[int, float], *, higher_is_better: bool = True
) -> str:
    """`ahead`, `behind`, or `undecided`: within two standard errors of the paired difference.

    A single pair decides nothing.
    """
    found = difference(ours, theirs)
    if found is None or found.error is None or abs(found.value) <= ERRORS * found.error:
        return "undecided"
    return "ahead" if (found.value > 0) == higher_is_better else "behind"
