"""Attention in one pass: bit for bit its parts, and near to float64 attention.

The parts have truths of their own: the products a loop over integers (test_ops), the softmax that
of float64.
"""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitcompress import native as native_switch
from bitcompress.packed import ops
from bitcompress.packed.attention import (
    Product,
    ProductGrids,
    Term,
    attend,
    attend_by_parts,
    multiply,
    product_arguments,
)
from bitcompress.packed.softmax import exp2, lane_sum, softmax

native: ModuleType | None = native_switch.kernels()
quick = settings(deadline=None, max_examples=25, derandomize=True)


def grid(count: int, low: float, high: float, bits: int) -> tuple[Tensor, Tensor]:
    """A grid for each of `count` heads, a little wider from head to head."""
    widths = torch.linspace(1, 1.3, count).view(-1, 1, 1)
    scale, offset = widths * (high - low) / (2**bits - 1), widths * low
    return (scale, offset) if count > 1 else (scale.view(()), offset.view(()))


def product(grids: ProductGrids) -> Product:
    return lambda a, b: ops.matmul(a, b, *grids.a, *grids.b, *grids.bits, grids.per_row)


def parts(
    q: Tensor, k: Tensor, v: Tensor, terms: list[Term], qk: ProductGrids, av: ProductGrids
) -> Tensor:
    """Attention one operation after the other."""
    by_row = lambda rows, b: ops.row_reals(rows, b, av.a, av.b, av.bits)  # noqa: E731
    return attend_by_parts(q, k, v, terms, product(qk), product(av), by_row if av.per_row else None)


def both_grids(
    heads: int, keys: int, bits: tuple[int, int, int, int], per_row: bool = False
) -> list[ProductGrids]:
    q, k, p, v = bits
    largest = 1.1 if per_row else 3 / keys
    return [
        ProductGrids(grid(heads, -2, 2, q), grid(heads, -1.7, 2, k), (q, k)),
        ProductGrids(grid(heads, 0, largest, p), grid(heads, -2, 1.9, v), (p, v), per_row),
    ]


@st.composite
def attentions(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, list[Term], list[ProductGrids]]:
    windows, heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size = st.integers(1, 70)
    m, n, d, values = draw(size), draw(size), draw(st.integers(1, 20)), draw(st.integers(1, 20))
    bits = tuple(draw(st.integers(1, 8)) for _ in range(4))
    torch.manual_seed(draw(st.integers(0, 9999)))
    turned = draw(st.booleans())
    q = torch.randn(windows, heads, d, m).mT if turned else torch.randn(windows, heads, m, d)
    k = torch.randn(windows, heads, n, d).mT if not turned else torch.randn(windows, heads, d, n)
    v = torch.randn(windows, heads, values, n).mT if turned else torch.randn(
        windows, m + n, heads, values
    )[:, m:].transpose(1, 2)  # fmt: skip
    view = windows, heads, m, n
    choices = [
        Term(torch.randn(heads, 1, 1), False, view),
        Term(torch.randn(heads, 1, 1).exp(), True, view),
        Term(torch.randn(heads, m, n), False, view),
        Term(torch.randn(heads, n, m).mT, True, view),
        Term((torch.rand(windows, 1, m, n) < 0.2) * -100.0, False, (1, *view)),
        Term(torch.randn(()), False, view),
        Term(torch.randn(m, 1), False, view),
    ]
    terms = draw(st.lists(st.sampled_from(choices), max_size=3))
    return q, k, v, terms, both_grids(heads, n, bits, draw(st.booleans()))  # type: ignore[arg-type]


@pytest.mark.skipif(native is None, reason="no native kernels")
@quick
@given(case=attentions(), threads=st.sampled_from([1, 2]))
def test_one_pass_gives_the_bits_of_its_parts(level: str, case: tuple, threads: int) -> None:
    q, k, v, terms, (qk, av) = case
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = attend(q, k, v, terms, qk, av)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, parts(q, k, v, terms, qk, av))


@pytest.mark.skipif(native is None, reason="no native kernels")
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("keys", [1, 15, 16, 17, 255, 256, 257, 1000])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_rows_of_any_length(level: str, keys: int, bits: int, per_row: bool) -> None:
    torch.manual_seed(keys)
    q, k, v = torch.randn(2, 5, 10), torch.randn(2, 10, keys), torch.randn(2, keys, 3)
    qk, av = both_grids(1, keys, (bits,) * 4, per_row)
    got = attend(q, k, v, [], qk, av)
    assert torch.equal(got, parts(q, k, v, [], qk, av))


@pytest.mark.parametrize("per_row", [False, True])
def test_it_is_attention_of_the_decoded_numbers(per_row: bool) -> None:
    """With 8 bits everywhere it comes near to float64 attention without any codes."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 20, 8), torch.randn(3, 8, 30), torch.randn(3, 30, 6)
    qk = ProductGrids(grid(1, -4, 4, 8), grid(1, -4, 4, 8), (8, 8))
    av = ProductGrids(grid(1, 0, 1, 8), grid(1, -4, 4, 8), (8, 8), per_row)
    term = Term(torch.randn(30), False, (3, 20, 30))
    got = attend(q, k, v, [term], qk, av)
    wanted = (q.double() @ k.double() + term.tensor).softmax(-1) @ v.double()
    assert float((got - wanted).square().mean().sqrt()) < 0.03


@pytest.mark.skipif(native is None, reason="no native kernels")
def test_a_logit_that_is_no_number_spoils_its_row_alone(level: str) -> None:
    qk, av = both_grids(1, 20, (4,) * 4)
    for poison in (math.nan, math.inf):
        term = torch.zeros(6, 20)
        term[2, 7] = poison
        q, k, v = torch.randn(1, 6, 4), torch.randn(1, 4, 20), torch.randn(1, 20, 3)
        terms = [Term(term, False, (1, 6, 20))]
        got = attend(q, k, v, terms, qk, av)
        assert torch.equal(got, parts(q, k, v, terms, qk, av))
        zero_codes = (av.a[1] * (v * 0 + 1)).sum(1)  # every p is code 0, the offset: 0 here
        assert torch.equal(got[0, 2], zero_codes[0] * 0)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_by_row_a_logit_that_is_no_number_spoils_its_row(arithmetic: str, poison: float) -> None:
    qk, av = both_grids(1, 20, (4,) * 4, per_row=True)
    term = torch.zeros(6, 20)
    term[2, 7] = poison
    q, k, v = torch.randn(1, 6, 4), torch.randn(1, 4, 20), torch.randn(1, 20, 3)
    got = attend(q, k, v, [Term(term, False, (1, 6, 20))], qk, av)
    spoilt = poison != -math.inf  # that one is a mask
    assert bool(got[0, 2].isnan().all()) == spoilt
    assert bool(got[0, [0, 1, 3, 4, 5]].isfinite().all())


def test_softmax_is_that_of_float64() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 333) * 10
    assert torch.allclose(softmax(x).double(), x.double().softmax(-1), rtol=3e-5, atol=0)
    assert bool(softmax(torch.tensor([1.0, math.nan])).isnan().all())


def test_powers_of_two_are_near_and_whole_ones_exact() -> None:
    x = -torch.rand(100_000) * 126
    error = exp2(x).double() / torch.exp2(x.double()) - 1
    assert float(error.abs().max()) < 2e-7
    whole = -torch.arange(0, 127).float()
    assert exp2(whole).tolist() == [2.0**-i for i in range(127)]
    assert exp2(torch.tensor([-500.0, -math.inf])).tolist() == [2.0**-126] * 2


@pytest.mark.skipif(native is None, reason="no native kernels")
def test_native_powers_of_two_are_the_same_bits(level: str) -> None:
    assert native is not None
    x = torch.cat([-torch.rand(9999) * 130, -torch.arange(0, 130).float(), torch.zeros(3)])
    out = torch.empty_like(x)
    native.exp2(x, out)
    assert torch.equal(out, exp2(x))


@quick
@given(n=st.integers(1, 100))
def test_lane_sums_add_in_the_order_they_say(n: int) -> None:
    x = torch.rand(n) * torch.logspace(0, 6, n)
    lanes = [torch.zeros(()) for _ in range(16)]
    for i, value in enumerate(x):
        lanes[i % 16] = lanes[i % 16] + value
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [low + high for low, high in zip(lanes[:half], lanes[half:], strict=True)]
    assert lane_sum(x).item() == lanes[0].item()


@st.composite
def products(draw: st.DrawFn) -> tuple[Tensor, Tensor, ProductGrids]:
    windows, heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    m, k, n = draw(st.integers(1, 60)), draw(st.integers(1, 150)), draw(st.integers(1, 90))
    torch.manual_seed(draw(st.integers(0, 9999)))
    a = torch.randn(windows, heads, m, k)
    b = torch.randn(windows, heads, k, n)
    if draw(st.booleans()):
        a = torch.randn(windows, k, heads, m).permute(0, 2, 3, 1)
    if draw(st.booleans()):
        b = torch.randn(windows, heads, n, k).mT
    bits = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    if draw(st.booleans()):
        a = a.softmax(-1) if draw(st.booleans()) else a.abs() * (torch.rand_like(a) < 0.5)
        return a, b, ProductGrids(grid(heads, 0, 1, bits[0]), grid(1, -1.7, 2, bits[1]), bits, True)
    return a, b, ProductGrids(grid(heads, -2, 2, bits[0]), grid(1, -1.7, 2, bits[1]), bits)


@pytest.mark.skipif(native is None, reason="no native kernels")
@quick
@given(case=products(), threads=st.sampled_from([1, 3]))
def test_a_product_run_straight_is_the_operator(
    level: str, case: tuple[Tensor, Tensor, ProductGrids], threads: int
) -> None:
    a, b, grids = case
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = multiply(a, b, grids)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, product(grids)(a, b))


@pytest.mark.skipif(native is None, reason="no native kernels")
@quick
@given(case=products(), order=st.permutations(range(4)), threads=st.sampled_from([1, 3]))
def test_a_product_is_written_in_any_order_of_its_axes(
    level: str, case: tuple[Tensor, Tensor, ProductGrids], order: list[int], threads: int
) -> None:
    assert native is not None
    a, b, grids = case
    wanted = product(grids)(a, b)
    sizes = [wanted.shape[axis] for axis in order]
    whole = torch.full([*sizes[:-1], sizes[-1] + 3], 7.0)
    out = whole[..., 1:-2].permute([order.index(axis) for axis in range(4)])
    bound = native.Multiply(*product_arguments(a, b, grids, out), grids.per_row)
    if min(wanted.shape[2:]) > 1 and order[-1] < 2:  # neither rows nor columns lie dense
        with pytest.raises(ValueError):
            bound.run(threads)
        return
    bound.run(threads)
    assert torch.equal(out, wanted)
    assert bool((whole[..., 0] == 7).all()) and bool((whole[..., -2:] == 7).all())
