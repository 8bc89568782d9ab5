"""Attention weights cut row by row: each row relative to its largest weight, the rest centred.

One grid for all rows of a softmax serves none of them: an even row over 256 keys has weights of
0.004, a sharp one of 1. Relative to the largest weight of the row both fill the grid, and the
factor leaves the sum. What rounding adds to the sum of a row would move the output by as much of
the mean value, which is large beside what attention adds to it. So the codes of a row weigh
deviations of the values from their mean, and the mean comes in with the true sum of the row:

    y_j = gain sum_k r_k (v_kj - mean_j) + total mean_j,    a_k = gain r_k,  total = sum_k a_k

With r = sa R + la and v = sv V + lv (capital letters are codes, K terms in a sum) the offsets drop
out of the first sum; it is an integer product, corrected by the sums of both codes:

    y_j = gain sa sv (sum R V_j - sum R sum V_j / K) + total (sv sum V_j / K + lv)

Source: cutting the unnormalised weights and centring the values are SageAttention2 (Zhang et al.,
2024), sections 3.2 and 3.3. Differs: values are centred within the product of codes, not before
they are cut, so there is no float pass over them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bitcompress.packed.softmax import exponentials, lane_sum

SMALLEST = torch.finfo(torch.float32).tiny
"""The least that a row is divided by: a row of zeros has the codes of zeros."""


class Rows(NamedTuple):
    """Rows of weights as relative weights: weights = gain * relative.

    Shapes: relative (..., M, K), at most 1; gain, total (..., M, 1), total the sum of the weights.
    """

    relative: Tensor
    gain: Tensor
    total: Tensor


def largest_of(a: Tensor) -> Tensor:
    """What the weights of each row are relative to; no gradient goes there.

    Shapes: a (..., M, K). Returns: (..., M, 1).
    """
    return a.detach().amax(-1, keepdim=True).clamp(min=SMALLEST)


def rows_of(a: Tensor) -> Rows:
    """Weights that are none below 0, relative to the largest of each row.

    Shapes: a (..., M, K) float32.
    """
    largest = largest_of(a)
    return Rows(a / largest, largest, lane_sum(a))


def softmax_rows(logits: Tensor) -> Rows:
    """Softmax along the last axis; the relative weights are its exponentials as they are.

    Shapes: logits (..., M, K) float32.
    """
    relative, total = exponentials(logits)
    gain = 1 / total
    return Rows(relative, gain, torch.ones_like(gain))


def centred(
    products: Tensor, a_sums: Tensor, b_sums: Tensor, count: int, rows: Rows,
    a_scale: Tensor, b_grid: tuple[Tensor, Tensor],
) -> Tensor:  # fmt: skip
    """The formula of this file, from integer sums; float64 inside.

    Shapes: products (..., M, N), a_sums (..., M, 1), b_sums (..., 1, N) integers; grids broadcast.
    Returns: float64 like products.
    """
    scale, offset = (part.double() for part in b_grid)
    centre = b_sums.double() / count
    gain = rows.gain.double() * (a_scale.double() * scale)
    mean = centre * scale + offset
    deviations = products.double().sub_(a_sums.double() * centre)
    return deviations.mul_(gain).add_(rows.total.double() * mean)
