"""The stop-watch: contenders take turns, so that what else the machine does meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

FEWEST = 3
"""Rounds that even the slowest contender runs."""

MOST = 200
"""Rounds that even the fastest do not go beyond to fill their time."""


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
    was busy. `waited` is the share of the time in which the process did not even have one
    processor.
    """

    best: float
    median: float
    spread: float
    repeats: int
    waited: float = 0.0

    @classmethod
    def of(cls, seconds: Sequence[float], processor: float | None = None) -> Times:
        """The figures of a list of times, and of the processor time that they cost together."""
        best, median, whole = min(seconds), statistics.median(seconds), sum(seconds)
        waited = max(0.0, 1 - processor / whole) if processor is not None and whole else 0.0
        spread = (max(seconds) - best) / median if median else 0.0
        return cls(best, median, spread, len(seconds), waited)


def take_turns(
    contenders: Sequence[Contender], *, repeats: int, seconds: float, together: float = 0.0
) -> dict[str, Times]:
    """Times of each contender: one warm-up, then rounds in which all take their turn.

    There are `repeats` rounds, and more until all have had `together` seconds; a contender that has
    had more than `seconds` sits out what is left after three rounds.
    """
    taken: dict[str, list[float]] = {}
    processor = dict.fromkeys((contender.name for contender in contenders), 0.0)
    for contender in contenders:
        contender.before()
        contender.run()
        taken[contender.name] = []
    rounds, spent = 0, 0.0
    while rounds < repeats or (rounds < MOST and spent < together):
        rounds += 1
        for contender in contenders:
            mine = taken[contender.name]
            if len(mine) >= FEWEST and sum(mine) > seconds:
                continue
            contender.before()
            used, start = time.process_time(), time.perf_counter()
            contender.run()
            mine.append(time.perf_counter() - start)
            processor[contender.name] += time.process_time() - used
            spent += mine[-1]
    return {name: Times.of(mine, processor[name]) for name, mine in taken.items()}
