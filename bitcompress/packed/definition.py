"""What the packed operators mean, in plain torch: exact integer sums, then one affine reading.

With x = sx X + lx and w = sw W + lw (capital letters are codes, K terms in a sum):

    sum x w = sx sw sum(X W) + sx lw sum(X) + lx sw sum(W) + K lx lw

The first and second sums run over codes at run time, the third and fourth are constants of the
weights. Where a convolution pads, a tap outside the picture is a true zero and in none of the sums.
Source: 2DQuant notes on integer inference; the identity is arithmetic.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

EXACT_IN_FLOAT32 = 1 << 24
"""Integers up to here are exact in float32, and so are sums of products that stay below."""


def carrier(left_bits: int, right_bits: int, length: int) -> torch.dtype:
    """The cheapest float type whose sums of `length` products of codes are exact integers."""
    largest = ((1 << left_bits) - 1) * ((1 << right_bits) - 1) * length
    return torch.float32 if largest < EXACT_IN_FLOAT32 else torch.float64


def accumulator(left_bits: int, right_bits: int, length: int) -> torch.dtype:
    """The integer type that holds sums of `length` products: int32 but for the very longest."""
    largest = ((1 << left_bits) - 1) * ((1 << right_bits) - 1) * length
    return torch.int32 if largest < 1 << 31 else torch.int64


def fits_int32(left_bits: int, right_bits: int, length: int) -> bool:
    """Whether kernels that add in int32 may take sums of `length` products."""
    return accumulator(left_bits, right_bits, length) == torch.int32


def code_products(a: Tensor, b: Tensor, a_bits: int, b_bits: int) -> Tensor:
    """Sums of products of codes over the last axis of both.

    Shapes: a (..., M, K) uint8; b (..., N, K) uint8. Returns: (..., M, N) of `accumulator`, exact.
    """
    size = a_bits, b_bits, int(a.shape[-1])
    kind = carrier(*size)
    return (a.to(kind) @ b.to(kind).transpose(-2, -1)).to(accumulator(*size))


def code_conv2d(
    x: Tensor, w: Tensor, x_bits: int, w_bits: int,
    stride: list[int], padding: list[int], dilation: list[int], groups: int,
) -> Tensor:  # fmt: skip
    """The convolution of codes, a tap outside the picture counting nothing.

    Shapes: x (N, C, H, W) uint8; w (O, C/groups, KH, KW) uint8. Returns: (N, O, OH, OW) of
    `accumulator`, exact.
    """
    size = x_bits, w_bits, int(w[0].numel())
    kind = carrier(*size)
    sums = F.conv2d(x.to(kind), w.to(kind), None, stride, padding, dilation, groups)
    return sums.round().to(accumulator(*size))


def conv2d_tap_sums(
    x: Tensor, w: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The three other sums of a padded convolution, over the taps that lie inside the picture.

    Shapes: x (N, C, H, W) codes; w (O, C/groups, KH, KW) codes.
    Returns: sum X (N, groups, OH, OW); sum W (1, O, OH, OW); K (1, 1, OH, OW); all float64, exact.
    """
    n, c, h, width = x.shape
    window = torch.ones(groups, 1, *w.shape[2:], dtype=torch.float64, device=x.device)
    per_group = x.view(n, groups, c // groups, h, width).sum(2, dtype=torch.float64)
    x_sums = F.conv2d(per_group, window, None, stride, padding, dilation, groups)
    inside = torch.ones(1, 1, h, width, dtype=torch.float64, device=x.device)
    taps = w.sum(1, keepdim=True, dtype=torch.float64)
    w_sums = F.conv2d(inside, taps, None, stride, padding, dilation)
    count = F.conv2d(inside, window[:1], None, stride, padding, dilation) * w.shape[1]
    return x_sums.round(), w_sums.round(), count.round()


def affine(
    products: Tensor, x_sums: Tensor, w_sums: Tensor, count: Tensor | int,
    x_grid: tuple[Tensor, Tensor], w_grid: tuple[Tensor, Tensor],
) -> Tensor:  # fmt: skip
    """The real value of a sum of products, from the four integer sums; float64 inside.

    Shapes: everything broadcasts against products. Returns: float64 like the broadcast.
    """
    (sx, lx), (sw, lw) = [[part.double() for part in grid] for grid in (x_grid, w_grid)]
    real = products.double().mul_(sx * sw)
    real = real.add_((sx * lw) * x_sums)
    return real.add_((lx * sw) * w_sums + lx * lw * count)
