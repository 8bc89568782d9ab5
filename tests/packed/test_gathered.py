"""Attention by tables: the bits of its parts on windows of a picture; bad places are refused."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitcompress import native as native_switch
from bitcompress.errors import ShapeError
from bitcompress.packed import ops
from bitcompress.packed.attention import ProductGrids, Term, attend
from bitcompress.packed.gathered import (
    Gathered,
    OutGrid,
    Places,
    attend_gathered,
    attend_gathered_by_parts,
)

native: ModuleType | None = native_switch.kernels()
quick = settings(deadline=None, max_examples=25, derandomize=True)
needs_native = pytest.mark.skipif(native is None, reason="no native kernels")


def grids(batch: int, low: float, high: float, bits: int) -> tuple[Tensor, Tensor]:
    widths = torch.linspace(1, 1.3, batch).view(-1, 1, 1)
    return widths * (high - low) / (2**bits - 1), widths * low


def windows(
    images: int, size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]
) -> Tensor:
    """The tokens of each shifted window, found one at a time: (windows, N)."""
    (height, width), (high, wide) = size, window
    rows = []
    for image in range(images):
        for top in range(0, height, high):
            for left in range(0, width, wide):
                rows.append([
                    image * height * width
                    + (top + y + shift[0]) % height * width + (left + x + shift[1]) % width
                    for y in range(high) for x in range(wide)
                ])  # fmt: skip
    return torch.tensor(rows)


def picture(
    images: int, size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int],
    heads: int, depth: int, bits: tuple[int, int, int, int], per_row: bool, seed: int,
    masked: bool = False, biased: bool = False, factor: float = 1.0,
    out_grid: OutGrid | None = None,
) -> tuple[Gathered, Tensor]:  # fmt: skip
    """Window attention of tokens with queries, keys and values side by side."""
    torch.manual_seed(seed)
    channels = heads * depth
    tokens = windows(images, size, window, shift)
    count, n = tokens.shape
    batch = count * heads
    head = torch.arange(heads).repeat(count) * depth
    terms = []
    if biased:
        terms.append(Term(torch.randn(heads, n, n), False, (count, heads, n, n)))
    if masked:
        mask = (torch.rand(count // images, 1, n, n) < 0.2) * -100.0
        mask[torch.rand(count // images) < 0.5] = 0.0
        terms.append(Term(mask, False, (images, count // images, heads, n, n)))
    wide = (3 * channels * tokens).int()
    work = Gathered(
        depth, depth, *(Places(head + part * channels, wide) for part in range(3)),
        Places(head, (channels * tokens).int()),
        ProductGrids(grids(batch, -2, 2, bits[0]), grids(batch, -1.7, 2, bits[1]), bits[:2]),
        ProductGrids(
            grids(batch, 0, 1.05 if per_row else 3 / n, bits[2]), grids(batch, -2, 1.9, bits[3]),
            bits[2:], per_row,
        ),
        factor, tuple(terms), out_grid,
    )  # fmt: skip
    return work, torch.randn(images * size[0] * size[1], 3 * channels)


@st.composite
def pictures(draw: st.DrawFn) -> tuple[Gathered, Tensor, tuple[bool, bool, bool]]:
    window = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    size = window[0] * draw(st.integers(1, 3)), window[1] * draw(st.integers(1, 2))
    heads, depth = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    shift = draw(st.integers(0, window[0] - 1)), draw(st.integers(0, window[1] - 1))
    out_grid = None
    if draw(st.booleans()):
        count = draw(st.sampled_from([1, heads * depth]))
        width = draw(st.integers(1, 8))
        steps = torch.rand(count) < draw(st.sampled_from([0.0, 0.5, 1.0]))
        scale = torch.where(steps, 0.0, torch.rand(count) * 0.3 + 0.1)
        out_grid = OutGrid(scale, torch.where(steps, 0.1, -1.0) * torch.rand(count), width)
    work, qkv = picture(
        draw(st.integers(1, 2)), size, window, shift, heads, depth,
        (draw(st.integers(1, 8)), draw(st.integers(1, 8)), draw(st.integers(1, 8)),
         draw(st.integers(1, 8))),
        draw(st.booleans()), draw(st.integers(0, 999)), draw(st.booleans()), draw(st.booleans()),
        draw(st.sampled_from([1.0, 0.3125, depth**-0.5])), out_grid,
    )  # fmt: skip
    return work, qkv, (draw(st.booleans()), draw(st.booleans()), draw(st.booleans()))


def as_codes(work: Gathered, qkv: Tensor, which: tuple[bool, bool, bool]) -> list[Tensor]:
    """q, k and v: the tensor itself, or codes of one grid in it."""
    given = []
    bits = (*work.qk.bits, work.av.bits[1])
    for codes, width in zip(which, bits, strict=True):
        whole = ops.encode(qkv, torch.tensor([3 / 2**width]), torch.tensor([-1.5]), width)
        given.append(whole if codes else qkv)
    return given


def output(work: Gathered, qkv: Tensor) -> Tensor:
    kind = torch.float32 if work.out_grid is None else torch.uint8
    return torch.full((qkv.shape[0], qkv.shape[1] // 3), 77, dtype=kind)


@needs_native
@quick
@given(case=pictures(), threads=st.sampled_from([1, 2]))
def test_one_call_gives_the_bits_of_its_parts(level: str, case: tuple, threads: int) -> None:
    work, qkv, which = case
    q, k, v = as_codes(work, qkv, which)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = attend_gathered(work, q, k, v, output(work, qkv))
    finally:
        torch.set_num_threads(before)
    wanted = attend_gathered_by_parts(work, q, k, v, output(work, qkv))
    assert work.bound() is not None
    assert torch.equal(got, wanted)


def test_windows_are_those_that_a_roll_and_a_view_cut() -> None:
    """The same picture with the windows cut by torch: no tables anywhere."""
    size, window, shift, heads, depth = (8, 12), (4, 6), (2, 3), 2, 5
    work, qkv = picture(2, size, window, shift, heads, depth, (4, 4, 8, 4), True, 0, True, True)
    got = attend_gathered(work, qkv, qkv, qkv, output(work, qkv))
    rolled = torch.roll(qkv.view(2, *size, 3, heads, depth), (-2, -3), (1, 2))
    split = rolled.view(2, 2, 4, 2, 6, 3, heads, depth).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = split.reshape(3, -1, 24, depth)
    y = attend(q, k.mT, v, work.terms, work.qk, work.av)
    back = y.view(2, 2, 2, heads, 4, 6, depth).permute(0, 1, 4, 2, 5, 3, 6)
    back = torch.roll(back.reshape(2, *size, heads * depth), shift, (1, 2))
    assert torch.equal(got.view(back.shape), back)


@needs_native
def test_what_no_place_names_is_left(level: str) -> None:
    work, qkv = picture(1, (4, 4), (2, 2), (0, 0), 1, 3, (4, 4, 4, 4), True, 0)
    few = Gathered(
        3, 3, *(Places(p.starts[:2], p.rows[:2]) for p in (work.q, work.k, work.v, work.out)),
        *(ProductGrids(
            (g.a[0][:2], g.a[1][:2]), (g.b[0][:2], g.b[1][:2]), g.bits, g.per_row
        ) for g in (work.qk, work.av)),
    )  # fmt: skip
    got = attend_gathered(few, qkv, qkv, qkv, output(work, qkv))
    assert bool((got[8:] == 77).all()) and not bool((got[:8] == 77).any())
    assert torch.equal(got, attend_gathered_by_parts(few, qkv, qkv, qkv, output(work, qkv)))


def test_a_tensor_too_small_for_its_places_is_refused() -> None:
    work, qkv = picture(1, (4, 4), (2, 2), (0, 0), 1, 3, (4, 4, 4, 4), True, 0)
    out = output(work, qkv)
    for wrong in ((qkv[:-1], qkv, qkv, out), (qkv, qkv, qkv[:-1], out), (qkv, qkv, qkv, out[:-1])):
        with pytest.raises((ShapeError, ValueError)):
            attend_gathered(work, *wrong)
        with pytest.raises(ShapeError):
            attend_gathered_by_parts(work, *wrong)


@needs_native
def test_bad_places_and_tensors_are_refused() -> None:
    work, qkv = picture(1, (4, 4), (2, 2), (0, 0), 2, 3, (4, 4, 4, 4), True, 0, True)
    out = output(work, qkv)
    negative = work.q.rows.clone()
    negative[1, 2] = -1
    short = Places(work.q.starts[:-1], work.q.rows)
    lines = Places(work.q.starts, work.q.rows[:3])
    before = Places(work.q.starts - 1, work.q.rows)
    for q in (Places(work.q.starts, negative), before, short, lines):
        wrong = Gathered(
            3, 3, q, work.k, work.v, work.out, work.qk, work.av, 1.0, work.terms
        )  # fmt: skip
        with pytest.raises((ValueError, RuntimeError)):
            attend_gathered(wrong, qkv, qkv, qkv, out)
    bound = work.bound()
    for tensors in (
        (qkv.double(), qkv, qkv, out), (qkv, qkv.int(), qkv, out), (qkv, qkv, qkv, out.byte()),
        (qkv.t(), qkv, qkv, out),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            bound.run(*tensors)
