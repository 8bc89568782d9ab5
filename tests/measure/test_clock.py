"""Tests of the stop-watch: turns, warm-up, figures; never how long something takes."""

from __future__ import annotations

import pytest

from bitcompress.measure.clock import FEWEST, Contender, Times, take_turns


def test_contenders_take_turns_after_one_warm_up_each() -> None:
    seen: list[str] = []
    contenders = [
        Contender(name, lambda name=name: seen.append(name), lambda: seen.append("before"))  # type: ignore[misc]
        for name in ("a", "b")
    ]
    times = take_turns(contenders, repeats=2, seconds=10)
    assert seen == ["before", "a", "before", "b"] * 3
    assert {name: t.repeats for name, t in times.items()} == {"a": 2, "b": 2}


def test_who_has_had_its_time_sits_out() -> None:
    times = take_turns([Contender("a", lambda: None)], repeats=50, seconds=-1.0)
    assert times["a"].repeats == FEWEST


def test_figures() -> None:
    times = Times.of([4.0, 1.0, 2.0])
    assert (times.best, times.median, times.repeats) == (1.0, 2.0, 3)
    assert times.spread == pytest.approx(1.5)
