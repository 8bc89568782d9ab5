"""Laws of weights that are cut row by row: the formula against plain sums of plain numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitcompress.packed import ops
from bitcompress.packed.rows import rows_of, softmax_rows

quick = settings(deadline=None, max_examples=30, derandomize=True)


def test_rows_are_their_relative_weights_times_the_largest() -> None:
    a = torch.rand(2, 3, 40) * torch.logspace(-8, 3, 3)[:, None]
    rows = rows_of(a)
    assert torch.equal(rows.relative.amax(-1), torch.ones(2, 3))
    assert torch.allclose(rows.relative * rows.gain, a, rtol=1e-6, atol=0)
    assert torch.allclose(rows.total[..., 0], a.sum(-1), rtol=1e-6)


def test_a_row_of_zeros_is_one() -> None:
    rows = rows_of(torch.zeros(1, 5))
    assert rows.relative.tolist() == [[0.0] * 5]
    assert rows.total.item() == 0


def test_the_rows_of_a_softmax_are_its_exponentials() -> None:
    logits = torch.randn(4, 30) * 5
    rows = softmax_rows(logits)
    assert torch.equal(rows.relative.amax(-1), torch.ones(4))
    assert torch.allclose(rows.relative * rows.gain, logits.softmax(-1), rtol=2e-5, atol=1e-12)
    assert torch.equal(rows.total, torch.ones(4, 1))


@quick
@given(
    m=st.integers(1, 4), k=st.integers(1, 9), n=st.integers(1, 4),
    bits=st.tuples(st.integers(1, 8), st.integers(1, 8)), seed=st.integers(0, 999),
)  # fmt: skip
def test_the_product_is_that_of_a_loop_over_real_numbers(
    m: int, k: int, n: int, bits: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    a, b = torch.rand(m, k) ** 4, torch.randn(k, n) + 3
    grids = [(torch.tensor(s / (2**w - 1)), torch.tensor(o))
             for s, o, w in ((1.1, -0.02, bits[0]), (5.0, 1.0, bits[1]))]  # fmt: skip

    def on_grid(x: float, side: int) -> float:
        scale, offset = (float(part) for part in grids[side])
        code = round((torch.tensor(x) - grids[side][1]).div(grids[side][0]).item())
        return offset + scale * min(max(code, 0), 2 ** bits[side] - 1)

    got = ops.matmul(a[None], b[None], *grids[0], *grids[1], *bits, True)[0]
    for i in range(m):
        largest = float(a[i].max())
        relative = [on_grid(float(a[i, p] / a[i].max()), 0) for p in range(k)]
        for j in range(n):
            values = [on_grid(float(b[p, j]), 1) for p in range(k)]
            mean = math.fsum(values) / k
            around = math.fsum(r * (v - mean) for r, v in zip(relative, values, strict=True))
            wanted = largest * around + float(a[i].sum()) * mean
            assert math.isclose(float(got[i, j]), wanted, rel_tol=1e-5, abs_tol=1e-4)


@pytest.mark.parametrize("keys", [4, 64, 1000])
def test_even_attention_gives_the_mean_of_the_values_at_one_bit(keys: int) -> None:
    """No rounding of even weights moves the output: what a grid for all rows cannot promise."""
    a, v = torch.full((1, 3, keys), 1 / keys), torch.randn(1, keys, 5) + 10
    zero = torch.tensor(0.0)
    wide = (v.max() - v.min()) / 255
    y = ops.matmul(a, v, torch.tensor(0.9), zero, wide, v.min(), 1, 8, True)
    assert torch.allclose(y, v.mean(1, keepdim=True).expand(1, 3, 5), atol=float(wide))
