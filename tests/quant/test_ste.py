"""The gradients of the grid: the published formulas, and what central differences say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitcompress.quant.spec import round_codes
from bitcompress.quant.ste import fake_quantize


def gradients(x: Tensor, lower: Tensor, upper: Tensor, bits: int, upstream: Tensor,
              axis: int | None = None) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    a, b, c = (t.clone().requires_grad_() for t in (x, lower, upper))
    grads = torch.autograd.grad(fake_quantize(a, b, c, bits, axis), (a, b, c), upstream)
    return grads[0], grads[1], grads[2]


def published(x: float, lower: float, upper: float, bits: int) -> tuple[float, float, float]:
    """dq/dx, dq/dl, dq/du of one number, in Python floats."""
    n = 2**bits - 1
    if x < lower:
        return 0.0, 1.0, 0.0
    if x > upper:
        return 0.0, 0.0, 1.0
    step = (upper - lower) / n
    residue = round((x - lower) / step) / n - (x - lower) / (upper - lower)
    return 1.0, -residue, residue


@settings(deadline=None, max_examples=40)
@given(
    bits=st.integers(1, 8),
    lower=st.floats(-3, 3, width=32),
    width=st.floats(0.125, 5, width=32),
    seed=st.integers(0, 1000),
)
def test_gradients_are_the_published_ones(bits: int, lower: float, width: float, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(40).double() * width + lower
    upstream = torch.randn(40).double()
    low, high = (torch.tensor([v], dtype=torch.float64) for v in (lower, lower + width))
    grad_x, grad_low, grad_high = gradients(x, low, high, bits, upstream)
    each = [published(v, lower, lower + width, bits) for v in x.tolist()]
    wanted = [[g * e[i] for g, e in zip(upstream.tolist(), each, strict=True)] for i in range(3)]
    assert grad_x.tolist() == pytest.approx(wanted[0], abs=1e-9)
    assert grad_low.item() == pytest.approx(math.fsum(wanted[1]), abs=1e-9)
    assert grad_high.item() == pytest.approx(math.fsum(wanted[2]), abs=1e-9)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_gradients_are_central_differences_of_the_clip_with_frozen_rounding(bits: int) -> None:
    """Straight through means: the rounding error in codes is held, everything else moves."""
    n = 2**bits - 1
    x = torch.randn(200).double()
    low, high = (torch.tensor([v], dtype=torch.float64) for v in (-1.1, 0.9))

    def clipped(v: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(v, lo), hi)

    position = (clipped(x, low, high) - low) / ((high - low) / n)
    frozen = torch.round(position) - position

    def smooth(v: Tensor, lo: Tensor, hi: Tensor) -> Tensor:
        moved: Tensor = clipped(v, lo, hi) + (hi - lo) / n * frozen
        return moved

    eps = 1e-6
    upstream = torch.randn(200).double()
    grad_x, grad_low, grad_high = gradients(x, low, high, bits, upstream)
    by_x = (smooth(x + eps, low, high) - smooth(x - eps, low, high)) / (2 * eps)
    by_low = (smooth(x, low + eps, high) - smooth(x, low - eps, high)) / (2 * eps)
    by_high = (smooth(x, low, high + eps) - smooth(x, low, high - eps)) / (2 * eps)
    assert torch.allclose(grad_x, by_x * upstream, atol=1e-7)
    assert grad_low.item() == pytest.approx((by_low * upstream).sum().item(), abs=1e-6)
    assert grad_high.item() == pytest.approx((by_high * upstream).sum().item(), abs=1e-6)


def test_clipped_numbers_move_their_bound_alone(arithmetic: str) -> None:
    x, low, high = torch.tensor([-5.0, 7.0]), torch.tensor([-1.0]), torch.tensor([1.0])
    grad_x, grad_low, grad_high = gradients(x, low, high, 2, torch.tensor([3.0, 10.0]))
    assert grad_x.tolist() == [0.0, 0.0]
    assert (grad_low.item(), grad_high.item()) == (3.0, 10.0)


def test_numbers_in_range_move_a_bound_by_half_a_level_at_most(arithmetic: str) -> None:
    for bits in range(1, 9):
        for value in torch.linspace(-1, 1, 31):
            _, low, high = gradients(
                value[None], torch.tensor([-1.0]), torch.tensor([1.0]), bits, torch.ones(1)
            )
            assert abs(high.item()) <= 0.5 / (2**bits - 1) + 1e-6
            assert low.item() == pytest.approx(-high.item(), abs=1e-6)


@pytest.mark.parametrize("axis", [None, 0, 1, -1, -3])
def test_float32_gradients_of_each_axis_equal_those_of_float64(
    axis: int | None, arithmetic: str
) -> None:
    x, upstream = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    groups = 1 if axis is None else x.shape[axis]
    low, high = -torch.rand(groups) - 0.1, torch.rand(groups) + 0.1
    narrow = gradients(x, low, high, 3, upstream, axis)
    wide = gradients(x.double(), low.double(), high.double(), 3, upstream.double(), axis)
    for one, other in zip(narrow, wide, strict=True):
        assert torch.allclose(one.double(), other, atol=1e-4)


def test_half_a_level_rounds_to_even() -> None:
    x = torch.tensor([0.5, 1.5, 2.5])
    assert round_codes(x, torch.tensor(1.0), torch.tensor(0.0), 3).tolist() == [0.0, 2.0, 2.0]


def test_a_given_step_is_used_as_it_is(arithmetic: str) -> None:
    step = torch.tensor([0.25])
    y = fake_quantize(torch.tensor([0.6, 9.0]), torch.zeros(1), torch.ones(1), 2, None, step)
    assert y.tolist() == [0.5, 0.75]
