"""The stop-watch: contenders take turns, so that what else the machine does meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

FEWEST = 3
"""Rounds that even the slowest contender runs."""


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Contender:
    """Something to time. `before` runs ahead of each turn and is not timed."""

    name: str
    run: Callable[[], Any]
    before: Callable[[], Any] = _nothing


@dataclass(frozen=True)
class Times:
    """What one contender took. Units: s.

    `spread` is the distance from best to worst over the median: a large one says that the machine
    was busy.
    """

    best: float
    median: float
    spread: float
    repeats: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """The figures of a list of times."""
        best, median = min(seconds), statistics.median(seconds)
        return cls(best, median, (max(seconds) - best) / median if median else 0.0, len(seconds))


def take_turns(
    contenders: Sequence[Contender], *, repeats: int, seconds: float
) -> dict[str, Times]:
    """Times of each contender: one warm-up, then `repeats` rounds in which all take their turn.

    A contender that has had more than `seconds` sits out what is left after three rounds.
    """
    taken: dict[str, list[float]] = {}
    for contender in contenders:
        contender.before()
        contender.run()
        taken[contender.name] = []
    for _ in range(repeats):
        for contender in contenders:
            mine = taken[contender.name]
            if len(mine) >= FEWEST and sum(mine) > seconds:
                continue
            contender.before()
            start = time.perf_counter()
            contender.run()
            mine.append(time.perf_counter() - start)
    return {name: Times.of(mine) for name, mine in taken.items()}
