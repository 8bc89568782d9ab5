"""The clock gives each sample its time group, and refuses what is no timestep."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import DataError, UsageError
from bitcompress.layers.binary import Clock


def test_groups_are_those_of_the_paper() -> None:
    clock = Clock(5, 2000)
    given = [0, 399, 400, 799, 800, 1199, 1200, 1599, 1600, 1999]
    clock.set(torch.tensor(given))
    assert clock.index(10).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    counts = [0] * 5
    for t in range(0, 2000, 40):  # 50 steps of DDIM use each table ten times
        clock.set(t)
        counts[int(clock.index(1))] += 1
    assert counts == [10] * 5


def test_one_number_serves_all_and_pieces_share_their_sample() -> None:
    clock = Clock(4, 100)
    for t in (30, torch.tensor(30), torch.tensor([30]), torch.tensor([[30]])):
        clock.set(t)
        assert clock.index(3).tolist() == [1, 1, 1]
    clock.set(torch.tensor([0, 99], dtype=torch.int32))
    assert clock.index(6).tolist() == [0, 0, 0, 3, 3, 3]
    with pytest.raises(DataError, match="2 timesteps were given for 3 samples"):
        clock.index(3)


@pytest.mark.parametrize(
    ("t", "reason"),
    [
        (torch.tensor([1.0, 0.5]), "timestep is 0.5"), (0.5, "is 0.5"), (True, "bool"),
        (None, "NoneType"), (torch.tensor([1j]), "complex64"), (float("nan"), "NaN"),
        (torch.zeros(2, 2, dtype=torch.int64), "shape"),
        (torch.zeros(0, dtype=torch.int64), "shape"),
        (torch.tensor([5, 100]), "100 is out of range"), (-1, "-1 is out of range"),
    ],
)  # fmt: skip
def test_what_is_no_timestep_is_refused(t: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Clock(4, 100).set(t)


def test_whole_numbers_may_come_as_reals() -> None:
    clock = Clock(4, 100)
    for t in (30.0, torch.tensor([30.0]), torch.tensor(30, dtype=torch.bfloat16)):
        clock.set(t)
        assert clock.index(2).tolist() == [1, 1]


def test_noise_levels_have_groups_even_in_their_logarithm() -> None:
    clock = Clock(5, 5, (0.01, 100.0))
    levels = [0.0, 0.01, 0.06, 0.07, 0.39, 0.4, 2.5, 2.6, 15.8, 15.9, 100.0, 1e9]
    clock.set(torch.tensor(levels))
    wanted = [min(max(int((math.log(v) - math.log(0.01)) / math.log(1e4) * 5), 0), 4)
              for v in levels[1:]]  # fmt: skip
    assert clock.index(12).tolist() == [0, *wanted] == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]
    clock.set(2.6)
    assert clock.index(2).tolist() == [3, 3]
    clock.set(torch.tensor([3, 20]))
    assert clock.index(2).tolist() == [3, 4]
    with pytest.raises(DataError, match="noise level of -1"):
        clock.set(torch.tensor([1.0, -1.0]))
    for span in ((0.0, 1.0), (2.0, 1.0), (1.0, math.inf)):
        with pytest.raises(UsageError, match="noise levels"):
            Clock(5, 5, span)


def test_impossible_clocks_and_runs_without_time_are_refused() -> None:
    with pytest.raises(UsageError, match="0 time groups"):
        Clock(0, 10)
    with pytest.raises(UsageError, match="11 time groups"):
        Clock(11, 10)
    with pytest.raises(DataError, match="no timestep was given"):
        Clock(2, 10).index(1)


class Timed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(2, 10)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return x + self.clock.index(len(x))


def test_a_model_reads_its_own_argument() -> None:
    model = Timed()
    handle = model.clock.attach(model, "t")
    x = torch.zeros(2, dtype=torch.int64)
    assert model(x, torch.tensor([1, 9])).tolist() == [0, 1]
    assert model(x, t=torch.tensor(9)).tolist() == [1, 1]
    with pytest.raises(DataError, match="without its timestep 't'"):
        model(x)
    again = copy.deepcopy(model)
    assert again(x, torch.tensor([9, 1])).tolist() == [1, 0]
    assert model.clock.index(2).tolist() == [1, 1], "a copy has a clock of its own"
    handle.remove()
    model(x)
    with pytest.raises(UsageError, match="no argument 'time'"):
        model.clock.attach(model, "time")
