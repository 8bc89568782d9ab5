"""What the fused nodes of a program are told: row steps, and layers with them.

A node holds one of these as its target; the tensors that it reads are its arguments, so that the
graph knows who uses what. Steps name their operands by their place among the arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bitcompress.layers import PackedConv2d, PackedLinear


@dataclass(frozen=True)
class Grid:
    """By what reals are cut into codes; one number, or one a channel. top: the largest code."""

    scale: Tensor
    offset: Tensor
    top: Tensor

    @classmethod
    def of(cls, scale: Tensor, offset: Tensor, bits: int) -> Grid:
        """The grid of a layer's input. Shapes: scale, offset () or (C,)."""
        scale, offset = (part.detach().reshape(-1).contiguous() for part in (scale, offset))
        return cls(scale, offset, torch.full_like(scale, (1 << bits) - 1))

    def same(self, other: Grid) -> bool:
        """Whether both cut alike."""
        pairs = zip(
            (self.scale, self.offset, self.top), (other.scale, other.offset, other.top), strict=True
        )
        return all(torch.equal(mine, theirs) for mine, theirs in pairs)


@dataclass(frozen=True)
class RowStep:
    """One step on rows of channels: kinds as in packed/steps.py.

    operand: the place of its tensor among the arguments of the node, -1 for none; `gain` and
    `shift` are those of a norm, `shift` also what the operand of a mul_add is multiplied by;
    `value` a scalar, a slope or an eps. reach: "whole" for an operand of a number for each,
    "channel" for a vector, "row" for one number a row, "sample" for rows (N, C or 1) of which each
    serves all rows of a picture.
    """

    kind: str
    operand: int = -1
    reach: str = "whole"
    value: float = 0.0
    gain: Tensor | None = None
    shift: Tensor | None = None


@dataclass(frozen=True)
class LayerSpec:
    """A packed layer with what was fused to it. module None: the steps alone.

    Its arguments are x and the operands of steps. x_axis: where the channels of x are.
    """

    module: PackedLinear | PackedConv2d | None
    x_axis: int
    pictures: bool = False
    """Whether it is a convolution, of pictures (N, C, H, W)."""
    head: tuple[RowStep, ...] = ()
    tail: tuple[RowStep, ...] = ()
    codes_in: bool = False
    codes_out: Grid | None = None
    shuffle: int = 0

    def but(self, **changes: Any) -> LayerSpec:
        """The same with something changed."""
        return replace(self, **changes)
