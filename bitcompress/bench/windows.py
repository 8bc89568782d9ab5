"""Window attention as it stands in a picture model: windows, shift, bias, mask and the way back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bitcompress.bench import inputs, rivals
from bitcompress.bench.cases import Case
from bitcompress.packed import ops
from bitcompress.packed.attention import ProductGrids, Term
from bitcompress.packed.gathered import Gathered, OutGrid, Places, attend_gathered


def _windows(height: int, width: int, window: int) -> Tensor:
    """The tokens of each window of a picture that was shifted by half a window: (windows, N)."""
    tokens = torch.arange(height * width).view(height, width)
    rolled = torch.roll(tokens, (-(window // 2), -(window // 2)), (0, 1))
    split = rolled.view(height // window, window, width // window, window)
    return split.permute(0, 2, 1, 3).reshape(-1, window * window)


def _mask(height: int, width: int, window: int) -> Tensor:
    """What keeps apart tokens that the shift brought together: (windows, N, N)."""
    tokens = _windows(height, width, window)
    row, column = tokens // width < window // 2, tokens % width < window // 2
    zone = 2 * row.int() + column.int()
    return (zone[:, :, None] != zone[:, None, :]) * -100.0


def _attention(case: Case, bias: Tensor, mask: Tensor, codes: bool) -> Gathered:
    height, width, channels, heads, window = case.sizes
    tokens, depth = _windows(height, width, window), channels // heads
    count, n = tokens.shape
    head = torch.arange(heads).repeat(count) * depth
    bits = (case.act_bits, case.act_bits)
    scale, offset = (part.view(1, 1, 1) for part in inputs.grid(case.act_bits))
    weights = torch.full((1, 1, 1), 1 / ((1 << case.act_bits) - 1)), torch.zeros(1, 1, 1)
    q, k, v = (Places(head + part * channels, (3 * channels * tokens).int()) for part in range(3))
    return Gathered(
        depth, depth, q, k, v, Places(head, (channels * tokens).int()),
        ProductGrids((scale, offset), (scale, offset), bits),
        ProductGrids(weights, (scale, offset), bits, per_row=True),
        depth**-0.5,
        (
            Term(bias, False, (count, heads, n, n)),
            Term(mask[:, None], False, (count, heads, n, n)),
        ),
        OutGrid(*inputs.grid(case.act_bits), case.act_bits) if codes else None,
    )  # fmt: skip


def _build(case: Case, threads: int, codes: bool) -> inputs.Work:
    height, width, channels, heads, window = case.sizes
    n = window * window
    bias, mask = inputs.reals(heads, n, n, seed=1), _mask(height, width, window)
    reals = inputs.reals(height * width, 3 * channels)
    given = ops.encode(reals, *inputs.grid(case.act_bits), case.act_bits) if codes else reals
    out = torch.empty(height * width, channels, dtype=torch.uint8 if codes else torch.float32)

    def make() -> Callable[[], Tensor]:
        work = _attention(case, bias, mask, codes)
        return lambda: attend_gathered(work, given, given, given, out)

    others = rivals.window_attention(reals.view(height, width, -1), heads, window, bias, mask)
    macs = 2 * height * width * n * channels
    return inputs.Work(make, others, macs, inputs.size(given, out, bias))


def window_attention(case: Case, threads: int) -> inputs.Work:
    """From queries, keys and values side by side in a token to attended tokens, as reals."""
    return _build(case, threads, False)


def window_attention_codes(case: Case, threads: int) -> inputs.Work:
    """The same between two packed linears: codes in, codes out."""
    return _build(case, threads, True)
