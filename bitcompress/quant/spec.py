"""The plain records of quantization: how many bits along which axis, between which bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bitcompress.errors import ShapeError, UsageError

MIN_BITS, MAX_BITS = 1, 8


def along_axis(values: Tensor, dim: int, axis: int | None) -> Tensor:
    """One number a group, (groups,), shaped to broadcast along `axis` of a `dim`-D tensor.

    Without an axis there is one group, and the number has no axes.
    """
    if axis is None:
        return values.reshape(())
    shape = [1] * dim
    shape[axis] = -1
    return values.reshape(shape)


def in_groups(shape: Sequence[int], axis: int | None) -> tuple[int, int, int]:
    """How a contiguous tensor is read as (outer, groups, inner), its groups along `axis`."""
    if axis is None:
        return 1, 1, math.prod(shape)
    axis %= len(shape)
    return math.prod(shape[:axis]), int(shape[axis]), math.prod(shape[axis + 1 :])


def round_codes(x: Tensor, scale: Tensor, offset: Tensor, levels: int) -> Tensor:
    """The code of each number as a real: clamp(round((x - offset) / scale), 0, levels).

    This line is THE meaning of a code; half rounds to even. Native code does the same float32
    operations in the same order, so codes agree bit for bit.
    """
    return torch.clamp(torch.round((x - offset) / scale), 0, levels)


def codes_of(x: Tensor, scale: Tensor, offset: Tensor, levels: int) -> Tensor:
    """The code of each number; where scale is 0 the grid is a step, and the code is x >= offset.

    A step at theta is how a binary layer reads its input: 1 stands for +1, at theta itself too.
    Shapes: scale and offset broadcast against x. Returns: float like x, whole; a NaN has code 0.
    """
    rounded = torch.nan_to_num(round_codes(x, scale, offset, levels), nan=0.0)
    return torch.where(scale == 0, (x >= offset).to(x.dtype), rounded)


@dataclass(frozen=True)
class QuantSpec:
    """How a tensor is cut into codes: `bits` of each code, one grid for each index of `axis`.

    `axis` None means one grid for the whole tensor. Weights use axis 0 (output channels); the
    operands of attention products use -3 (heads).
    """

    bits: int
    axis: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not MIN_BITS <= self.bits <= MAX_BITS:
            raise UsageError(f"bits is {self.bits!r}; a code has 1 to 8 bits")

    @property
    def levels(self) -> int:
        """The number of steps of the grid, 2^bits - 1: codes run from 0 to this."""
        return (1 << self.bits) - 1

    def groups(self, shape: torch.Size | tuple[int, ...]) -> int:
        """How many grids a tensor of `shape` has."""
        return 1 if self.axis is None else int(shape[self.axis])

    def view(self, values: Tensor, dim: int) -> Tensor:
        """One number a grid, `values` (groups,), shaped to broadcast against a `dim`-D tensor."""
        return along_axis(values, dim, self.axis)


@dataclass(frozen=True)
class Bounds:
    """The real values of the first and the last level of each grid.

    Shapes: lower (groups,), upper (groups,), lower < upper.
    """

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape or self.lower.dim() != 1:
            raise ShapeError(
                f"bounds need two vectors of one length, got {tuple(self.lower.shape)} "
                f"and {tuple(self.upper.shape)}"
            )


@dataclass(frozen=True)
class Codes:
    """A tensor as integers: real = scale * values + offset.

    Shapes: values any, uint8 in [0, 2^bits); scale and offset broadcast against values, float32.
    """

    values: Tensor
    scale: Tensor
    offset: Tensor
    bits: int

    def decode(self) -> Tensor:
        """The real numbers that the codes stand for."""
        return self.values.to(self.scale.dtype) * self.scale + self.offset


MIN_WIDTH = 1e-8
"""The smallest distance of two bounds: below it a tensor counts as constant."""


def spread(bounds: Bounds) -> Bounds:
    """The same bounds with upper at least a hair above lower, so that a step is never 0.

    A constant tensor v becomes the grid [v, v + width]: code 0 is v exactly. No gradient flows
    from an upper bound that is held up to the lower one.
    """
    low = bounds.lower.detach()
    width = torch.clamp(low.abs() * 1e-5, min=MIN_WIDTH)
    return Bounds(bounds.lower, torch.maximum(bounds.upper, low + width))
