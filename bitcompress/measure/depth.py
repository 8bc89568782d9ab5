"""How good a depth map is: the shares within 1.25^i, and the errors that papers print."""

from __future__ import annotations

import torch
from torch import Tensor

from bitcompress.errors import DataError, ShapeError

LEAST = 1e-3
"""Told depths are not taken to be nearer than this: logarithms need it."""


def depth_figures(told: Tensor, truth: Tensor) -> dict[str, float]:
    """The figures of one depth map, over the pixels whose truth is known (greater than 0).

    Shapes: told and truth alike. Units: both in one unit, in which rmse is given as well.
    Returns: delta1..3 (share of pixels with max(t/g, g/t) < 1.25^i), abs_rel, rmse, log10 (mean
        absolute difference of decimal logarithms), silog (100 times the standard deviation of the
        difference of natural logarithms).
    Raises: ShapeError where sizes differ, DataError where no truth is known.
    Source: Eigen et al. 2014; silog as in the KITTI benchmark.
    """
    if told.shape != truth.shape:
        raise ShapeError(
            f"depths of {tuple(told.shape)} and {tuple(truth.shape)} cannot be compared: bring "
            "both to the picture's size"
        )
    known = truth > 0
    if not bool(known.any()):
        raise DataError("no depth is known here: give depth maps with numbers above 0")
    t, g = told[known].double().clamp(min=LEAST), truth[known].double()
    ratio = torch.maximum(t / g, g / t)
    logs = t.log() - g.log()
    figures = {f"delta{i}": float((ratio < 1.25**i).double().mean()) for i in (1, 2, 3)}
    return figures | {
        "abs_rel": float(((t - g).abs() / g).mean()),
        "rmse": float((t - g).square().mean().sqrt()),
        "log10": float((t.log10() - g.log10()).abs().mean()),
        "silog": 100 * float(logs.var(correction=0).sqrt()),
    }


def silog_loss(told: Tensor, truth: Tensor, focus: float = 0.85) -> Tensor:
    """The scale-invariant loss: 10 sqrt(mean d^2 - focus (mean d)^2), d = ln told - ln truth.

    Over the pixels whose truth is known; 0 (with gradient 0) where there is none.
    Shapes: told and truth alike. Source: BiDense, after Eigen et al. 2014; the 1e-7 is theirs, and
        the 1e-12 under the root keeps its gradient finite where both are equal.
    """
    known = truth > 0
    if not bool(known.any()):
        return told.sum() * 0
    d = (told[known].float() + 1e-7).log() - (truth[known].float() + 1e-7).log()
    inner = d.square().mean() - focus * d.mean().square()
    return 10 * (inner.clamp(min=0) + 1e-12).sqrt()
