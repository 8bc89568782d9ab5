"""What GELU means between packed layers: float32, one rounding an operation, no erf and no tanh.

x times the share of a bell curve below x is max(x, 0) less a bump that is the same on both sides:

    gelu(x) = max(x, 0) - a q(a),    a = min(|x|, c),    q(a) the share beyond a

q falls from 1/2 over seven orders of magnitude. Its fourth or eighth root is a tame function, for
which a polynomial of low degree does: q(a) = ((c - a) S(a))^m. The factor makes the bump end at c
exactly, so gelu(x) is x above and 0 below; S(0) is what makes q(0) one half. The numbers of S are
our own minimax fit of the bump (least squares, weighted as in Lawson, 1961).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.packed.tape import noted


class Tail(NamedTuple):
    """The share of a bell curve beyond a: ((cutoff - a) S(a)) squared so often."""

    cutoff: float
    squarings: int
    coefficients: tuple[float, ...]
    """Of S, from the highest power down."""


TAILS = {
    "none": Tail(
        5.6875, 2,
        (3.252998112657224e-06, -3.761619882425293e-05, 7.909361738711596e-05,
         0.0005315100424923003, -0.0008552198996767402, -0.009434265084564686,
         -0.00349725061096251, 0.1478499174118042),
    ),
    "tanh": Tail(
        5.625, 3,
        (3.3595792956475634e-06, -2.4660106646479107e-05, 5.073249485576525e-05,
         0.00014682125765830278, -0.0007244840962812304, -0.003406218718737364,
         0.012721256352961063, 0.1630229353904724),
    ),
}  # fmt: skip
"""By torch's names: the normal distribution, and the approximation to it by tanh."""


def define_gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """The definition. The absolute error is below 5e-7; NaN stays NaN.

    Shapes: any float32. Returns: likewise.
    """
    tail = TAILS[approximate]
    a = torch.clamp(x.abs(), max=tail.cutoff)
    q = torch.full_like(a, tail.coefficients[0])
    for coefficient in tail.coefficients[1:]:
        q = q * a + coefficient
    q = (tail.cutoff - a) * q
    for _ in range(tail.squarings):
        q = q * q
    return torch.where(x > 0, x, 0.0) - a * q


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """GELU: the definition, or the native kernel. `approximate` as in torch.

    Shapes: any float32. Returns: likewise, in the same order in memory.
    """
    kind = "gelu" if approximate == "none" else "gelu_tanh"
    return noted(kind, None, x, lambda: _gelu(x, approximate))


def _gelu(x: Tensor, approximate: str) -> Tensor:
    kernels = native.kernels()
    if kernels is None or not native.takes(x):
        return define_gelu(x, approximate)
    tanh_form, threads = approximate == "tanh", native.threads()
    return native.element_by_element(x, lambda a, y: kernels.gelu(a, tanh_form, y, threads))
