"""Which samples a step sees: a pure function, each sample once an epoch."""

from __future__ import annotations

import numpy as np
import pytest

from bitcompress.data.draws import drawn, random_of, share_of
from bitcompress.errors import DataError, UsageError


@pytest.mark.parametrize(("count", "size"), [(4, 12), (5, 12), (7, 3), (1, 1), (30, 7)])
def test_each_sample_comes_once_an_epoch(count: int, size: int) -> None:
    steps = -(-3 * size // count)
    seen = np.concatenate([drawn(5, step, count, size) for step in range(steps)])
    for epoch in range(3):
        assert sorted(seen[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_epochs_and_seeds_differ() -> None:
    one, two = drawn(0, 0, 50, 50), drawn(0, 1, 50, 50)
    assert (one != two).any() and (drawn(1, 0, 50, 50) != one).any()
    assert (drawn(0, 0, 50, 50) == one).all()


def test_random_numbers_depend_on_seed_and_step() -> None:
    draws = {tuple(random_of(s, t).random(2)) for s in range(3) for t in range(3)}
    assert len(draws) == 9
    assert tuple(random_of(1, 2).random(2)) in draws


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_shares_cover_a_batch(processes: int) -> None:
    shares = [share_of(7, process, processes) for process in range(processes)]
    assert sorted(np.concatenate([places for places, _ in shares])) == list(range(7))
    assert sum(weight for _, weight in shares) == pytest.approx(processes)


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(DataError, match="no sample to draw from"):
        drawn(0, 0, 4, 0)
    with pytest.raises(UsageError, match="a batch of 0 samples"):
        drawn(0, 0, 0, 4)
    with pytest.raises(DataError, match="a batch of 2 is less than the 3 processes"):
        share_of(2, 2, 3)
