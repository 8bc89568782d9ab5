"""Attention in windows as one opaque node, and what it means: a table of places an operand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bitcompress.backends.opaque import product_grids
from bitcompress.packed.attention import ProductGrids, Term
from bitcompress.packed.gathered import Gathered, OutGrid, Places, attend_gathered_by_parts


def window_table(
    count: int, height: int, width: int, window: Sequence[int], shift: Sequence[int]
) -> Tensor:
    """The pixels of each window of pictures, the first of which begins at `shift`.

    Shapes: (count * windows, window height * window width) int64, numbers of pixels.
    """
    (high, wide), (down, right) = window, shift
    pixel = torch.arange(count * height * width).reshape(count, height, width)
    rolled = torch.roll(pixel, (-down, -right), (1, 2))
    split = rolled.reshape(count, height // high, high, width // wide, wide)
    return split.permute(0, 1, 3, 2, 4).reshape(-1, high * wide)


def gathered(
    q: Tensor, k: Tensor, v: Tensor, grids: Sequence[Tensor], bits: Sequence[int], per_row: bool,
    per_length: Sequence[int], shortest: Sequence[int], terms: Sequence[Tensor],
    multiplies: Sequence[int], repeats: Sequence[int], window: Sequence[int], shift: Sequence[int],
    heads: int, widths: Sequence[int], firsts: Sequence[int], factor: float,
    out_grid: OutGrid | None = None,
) -> Tensor:  # fmt: skip
    """`windows` on reals or codes; with an out_grid the codes of what comes out."""
    pixels = window_table(q.shape[0], q.shape[1], q.shape[2], window, shift)
    tokens, batch = pixels.shape[1], pixels.shape[0] * heads
    qk = product_grids(grids[:4], bits[:2], False, per_length[:2], shortest[:2], widths[0])
    av = product_grids(grids[4:], bits[2:], per_row, per_length[2:], shortest[2:], tokens)

    def places(x: Tensor, first: int, width: int) -> Places:
        channels = math.prod(x.shape[3:])
        starts = (first + torch.arange(heads) * width).repeat(len(pixels))
        return Places(starts, (pixels * channels).int())

    made = [
        Term(t[:, None], bool(times), (batch // (len(t) * repeat), len(t), repeat, tokens, tokens))
        for t, times, repeat in zip(terms, multiplies, repeats, strict=True)
    ]
    kind = torch.float32 if out_grid is None else torch.uint8
    out = torch.empty(*q.shape[:3], heads * widths[1], dtype=kind)
    work = Gathered(
        widths[0], widths[1], places(q, firsts[0], widths[0]), places(k, firsts[1], widths[0]),
        places(v, firsts[2], widths[1]), places(out, 0, widths[1]), _each_head(qk, batch),
        _each_head(av, batch), factor, tuple(made), out_grid,
    )  # fmt: skip
    return attend_gathered_by_parts(work, q, k, v, out)


def _each_head(grids: ProductGrids, batch: int) -> ProductGrids:
    """Grids of heads as grids of all matrices, which follow each other head by head."""
    a, b = (
        tuple(p if p.numel() == 1 else p.repeat(batch // p.numel(), 1, 1) for p in pair)
        for pair in (grids.a, grids.b)
    )
    return ProductGrids((a[0], a[1]), (b[0], b[1]), grids.bits, grids.per_row)


@torch.library.custom_op("bitcompress::windows", mutates_args=())
def windows(
    q: Tensor, k: Tensor, v: Tensor, grids: Sequence[Tensor], bits: Sequence[int], per_row: bool,
    per_length: Sequence[int], shortest: Sequence[int], terms: Sequence[Tensor],
    multiplies: Sequence[int], repeats: Sequence[int], window: Sequence[int], shift: Sequence[int],
    heads: int, widths: Sequence[int], firsts: Sequence[int], factor: float,
) -> Tensor:  # fmt: skip
    """`attention` among the tokens of windows of pictures; matrices by picture, window and head.

    Shapes: q, k, v (N, H, W, ...), whose heads lie side by side from channel `firsts` on, `widths`
    wide -> (N, H, W, heads * widths[1]).
    """
    return gathered(
        q, k, v, grids, bits, per_row, per_length, shortest, terms, multiplies, repeats, window,
        shift, heads, widths, firsts, factor,
    )  # fmt: skip


@windows.register_fake
def _windows_shape(q: Tensor, *rest: Any) -> Tensor:
    heads, widths = rest[-4], rest[-3]
    return q.new_empty((*q.shape[:3], heads * widths[1]))
