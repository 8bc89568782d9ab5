"""What DAB's threshold and scale are, to the bit, for trained and packed layers alike.

Means of a sample and channel are those of packed/pixels.py, so that neither layout nor threads show
in them; everything after is float32 with one rounding an operation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bitcompress.packed.pixels import pixel_deviation, pixel_mean

WORD = 32
"""Channels that share a scale in the mode `group`."""
LARGEST = 8.0
"""The exponent of a shared scale stays within this."""


class DabTables(NamedTuple):
    """What DAB has learnt, for all samples or for each.

    Shapes: slope, bias (C,) or (N, C); exponent (words,) or (N, words), None where there is no
    scale; gain (C,), powers of two. words is 1 (`tensor`), C / 32 rounded up (`group`) or C.
    """

    slope: Tensor
    bias: Tensor
    exponent: Tensor | None
    gain: Tensor
    mode: str


def dab_bounds(x: Tensor, tables: DabTables) -> tuple[Tensor, Tensor | None]:
    """Threshold and scale of each sample.

    With z = gain x: beta = slope mean(z) + bias, scale = exp(exponent (mean |z - beta| - 1)); x is
    compared with beta / gain.
    Shapes: x (N, C, places). Returns: (N, C), and None, (N, words) or (N, C); float32.
    """
    beta = tables.slope * (dab_means(x) * tables.gain) + tables.bias
    theta = beta / tables.gain
    if tables.exponent is None:
        return theta, None
    apart = dab_means(x, around=theta) * tables.gain
    shared = words_mean(apart, tables.mode) - 1
    return theta, torch.exp(bounded(tables.exponent * shared, tables.mode).double()).float()


def dab_means(x: Tensor, rough: bool = False, around: Tensor | None = None) -> Tensor:
    """The mean of x, or of |x - around|, over the places of each sample and channel.

    rough: in the order of torch, for training. Shapes: x (N, C, places), around (N, C). Returns:
    (N, C).
    """
    x = x.float()
    if not rough:
        return pixel_mean(x) if around is None else pixel_deviation(x, around)
    return (x if around is None else (x - around[..., None]).abs_()).mean(2)


def words_mean(apart: Tensor, mode: str) -> Tensor:
    """The mean |z - beta| of those channels that share a scale.

    Shapes: apart (N, C). Returns: (N, words).
    """
    if mode == "channel":
        return apart
    if mode == "tensor":
        return apart.double().mean(1, keepdim=True).float()
    words = [part.double().mean(1, keepdim=True) for part in torch.split(apart, WORD, 1)]
    return torch.cat(words, 1).float()


def bounded(exponent: Tensor, mode: str) -> Tensor:
    """The exponent within its limits; the published form has none."""
    return exponent if mode == "channel" else exponent.clamp(-LARGEST, LARGEST)
