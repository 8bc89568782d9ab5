"""How the grid of an operand follows K, the length of the sum that it goes into.

Static bounds fit the lengths that calibration saw. Two kinds of operands change with the length in
a known way, so that a model keeps its quality at sizes it was not calibrated on:

* rows that `normalize` made shrink as 1/sqrt(K); their bounds are kept for K = 1 (`per_length`);
* rows that softmax made are shares of one: where K is smaller than all that was seen, they grow,
  up to 1 (`shortest`). Longer rows keep their bounds: attention may be as sharp as before.
"""

from __future__ import annotations

import torch
from torch import Tensor


def length_factor(
    length: int | None,
    grid: tuple[Tensor, Tensor],
    levels: int,
    *,
    per_length: bool,
    shortest: int,
) -> Tensor | float:
    """By what scale and offset are multiplied for sums of this length; 1 where none is given.

    grid: scale and offset as stored. shortest: the least length seen, 0 for operands that are no
    shares of one. Both twins of a layer compute this from the same numbers, so their codes agree.
    Shapes: scale, offset any, equal. Returns: a number, or one for each.
    """
    if length is None or (not per_length and length >= shortest):
        return 1.0
    if per_length:
        return float(length**-0.5)
    scale, offset = grid
    top = offset + scale * levels
    return torch.clamp(1.0 / top.clamp(min=1e-6), min=1.0, max=shortest / max(length, 1))
