"""Tests of means over seeds: against the library, by hand, and the rule for orders."""

from __future__ import annotations

import statistics

import pytest

from bitcompress.measure.seeds import Mean, difference, order


def test_mean_and_standard_error_are_the_library_s() -> None:
    figures = [36.1, 36.4, 35.9, 36.2]
    found = Mean.of(figures)
    assert found.value == pytest.approx(statistics.mean(figures))
    assert found.error == pytest.approx(statistics.stdev(figures) / 2)
    assert found.text() == "36.15 ± 0.10" and Mean.of([1.0]).text(1) == "1.0"


def test_the_pair_counts_and_not_the_spread_of_seeds() -> None:
    ours, theirs = {0: 10.0, 1: 20.0, 2: 30.0}, {0: 9.0, 1: 19.1, 2: 28.9, 3: 99.0}
    found = difference(ours, theirs)
    assert found is not None and found.count == 3 and found.value == pytest.approx(1.0)
    assert order(ours, theirs) == "ahead" and order(theirs, ours) == "behind"
    assert order(ours, theirs, higher_is_better=False) == "behind"


def test_within_two_standard_errors_there_is_no_order() -> None:
    # Differences 0, 1, 2: mean 1, standard error 1 / sqrt(3) = 0.58, twice that is 1.15.
    assert order({0: 1.0, 1: 2.0, 2: 3.0}, {0: 1.0, 1: 1.0, 2: 1.0}) == "undecided"
    assert order({0: 1.0}, {0: 0.0}) == "undecided"
    assert order({0: 1.0}, {1: 0.0}) == "undecided" and difference({0: 1.0}, {1: 0.0}) is None
    assert order({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}) == "undecided"
