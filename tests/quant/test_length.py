"""Laws of grids that follow the length of a sum."""

from __future__ import annotations

import pytest
import torch

from bitcompress.quant.length import length_factor
from bitcompress.quant.spec import Bounds, QuantSpec
from bitcompress.quant.uniform import UniformQuantizer

LEVELS = 15
GRID = (torch.tensor([0.02, 0.05, 0.2]), torch.tensor([0.0, 0.001, -0.01]))


def factor(length: int | None, per_length: bool = False, shortest: int = 0) -> torch.Tensor:
    made = length_factor(length, GRID, LEVELS, per_length=per_length, shortest=shortest)
    return torch.as_tensor(made).expand(3)


@pytest.mark.parametrize("length", [None, 1, 40, 1000])
def test_fixed_grids_do_not_follow(length: int | None) -> None:
    assert torch.equal(factor(length), torch.ones(3))


@pytest.mark.parametrize("length", [40, 41, 10_000])
def test_shares_keep_their_grid_in_sums_as_long_as_those_seen(length: int) -> None:
    assert torch.equal(factor(length, shortest=40), torch.ones(3))


@pytest.mark.parametrize("length", [39, 20, 7, 1])
def test_shares_grow_in_shorter_sums_but_never_above_one(length: int) -> None:
    top = GRID[1] + GRID[0] * LEVELS
    grown = factor(length, shortest=40)
    assert (grown >= 1).all() and (grown <= 40 / length).all()
    assert ((top * grown <= 1 + 1e-6) | (grown == 1)).all()
    # As far as one of both limits allows.
    assert ((grown == 40 / length) | (top * grown >= 1 - 1e-6)).all()


def test_even_attention_is_never_clipped() -> None:
    """Rows of n equal shares, seen with n = 64 only, are exact to half a step at every n."""
    q = UniformQuantizer(QuantSpec(8), shares=True, shortest=64)
    q.set_bounds(Bounds(torch.tensor([0.0]), torch.tensor([1.2 / 64])))
    for n in (64, 63, 30, 8, 2, 1):
        row = torch.full((n,), 1 / n)
        step, got = float(q.grid(n)[0]), q(row, n).detach()
        assert float((got - row).abs().max()) <= step / 2 + 1e-7
        assert torch.equal(got, q.encode(row, n).decode())
