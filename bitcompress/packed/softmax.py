"""What softmax means between two products on codes: float32, one rounding an operation.

Library softmaxes differ in their last bits from machine to machine, and one bit may flip a code.
This one is written out in operations that every machine rounds alike, so that a native kernel can
give the same bits. Where attention runs fused, packed or simulated, this is its softmax.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG2_E = 1.4426950408889634
COEFFICIENTS = (
    0.001326472614891827, 0.009671512991189957, 0.05550733581185341, 0.24022242426872253,
    0.6931470036506653, 1.0,
)  # fmt: skip
"""2^f for f in [-0.5, 0.5], from the highest power down; fitted to the least relative error."""
SMALLEST = -126.0
"""The lowest power of two that is no subnormal number."""
LANES = 16


def exp2(x: Tensor) -> Tensor:
    """2^x for x up to 0, never below 2^-126; the relative error is below 2e-7. NaN stays NaN.

    Shapes: any float32. Returns: likewise.
    """
    t = torch.clamp(x, min=SMALLEST)
    n = torch.round(t)
    f = t - n
    p = torch.full_like(f, COEFFICIENTS[0])
    for coefficient in COEFFICIENTS[1:]:
        p = p * f + coefficient
    return p * torch.exp2(n)


def lane_sum(x: Tensor) -> Tensor:
    """The sum along the last axis, in an order that vector units keep.

    16 partial sums, number i adding every 16th element from number i on; then the upper half of
    them is added to the lower until one is left.
    Shapes: (..., N) float32. Returns: (..., 1).
    """
    padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % LANES))
    sums = torch.zeros_like(padded[..., :LANES])
    for first in range(0, padded.shape[-1], LANES):
        sums = sums + padded[..., first : first + LANES]
    width = LANES
    while width > 1:
        width //= 2
        sums = sums[..., :width] + sums[..., width:]
    return sums


def exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    """What softmax divides: e to the logits, relative to the largest of each row, and their sum.

    Shapes: logits (..., N) float32. Returns: (..., N), at most 1, and (..., 1); NaN where the row
    has a NaN.
    """
    e = exp2((logits - logits.amax(-1, keepdim=True)) * LOG2_E)
    return e, lane_sum(e)


def softmax(logits: Tensor) -> Tensor:
    """Softmax along the last axis; a row with a NaN is all NaN.

    Shapes: (..., N) float32. Returns: likewise.
    """
    e, total = exponentials(logits)
    return e / total
