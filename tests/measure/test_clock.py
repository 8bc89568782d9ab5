"""Tests of the stop-watch: turns, warm-up, figures; never how long something takes."""

from __future__ import annotations

import time

import pytest

from bitcompress.measure.clock import FEWEST, MOST, Contender, Times, take_turns


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


def test_time_without_a_processor_is_counted() -> None:
    times = take_turns([Contender("a", lambda: time.sleep(0.01))], repeats=3, seconds=10)
    assert times["a"].waited > 0.5
    assert Times.of([1.0, 1.0], processor=2.5).waited == 0.0


def test_rounds_go_on_until_all_have_had_their_time_together() -> None:
    times = take_turns([Contender("a", lambda: None)], repeats=2, seconds=10, together=1e9)
    assert times["a"].repeats == MOST
