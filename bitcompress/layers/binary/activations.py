"""Activations of binary blocks: PReLU, RPReLU, TaA, all one form with a table for time groups."""

from __future__ import annotations

from abc import ABC
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import UsageError
from bitcompress.packed.binary import TailStep, shaped

PUBLISHED = 0.25
"""The slope at which PReLU, RPReLU and TaA start in their papers."""


class Activation(nn.Module, ABC):
    """leaky(z + before; slope) + after, rows of (K, O) chosen by the time group; as steps."""

    before: Tensor | None
    after: Tensor | None

    def __init__(self, channels: int, groups: int, slope: float, moves: bool) -> None:
        super().__init__()
        self.channels, self.groups = channels, groups
        self.slope = nn.Parameter(torch.full((groups, channels), slope))
        self.before = nn.Parameter(torch.zeros(groups, channels)) if moves else None
        self.after = nn.Parameter(torch.zeros(groups, channels)) if moves else None

    def steps(self) -> list[TailStep]:
        """What it does, in order."""
        found = [TailStep("leaky", self.slope)]
        if self.before is not None and self.after is not None:
            found = [TailStep("add", self.before), *found, TailStep("add", self.after)]
        return found

    def forward(self, z: Tensor, axis: int, index: Tensor | None) -> Tensor:
        """The same numbers in fewer passes and with their gradients, for training.

        Shapes: z (N, O, ...) for axis 1 or (..., O) for -1; index (N,) rows of the tables.
        """

        def row(table: Tensor) -> Tensor:
            return shaped(table[0] if len(table) == 1 else table[index], z, axis)

        before, after = (None if t is None else row(t) for t in (self.before, self.after))
        y: Tensor = _Moved.apply(z, before, row(self.slope), after)  # type: ignore[no-untyped-call]
        return y

    def extra_repr(self) -> str:
        """Sizes, for print(model)."""
        return f"{self.channels}" + (f", groups={self.groups}" if self.groups > 1 else "")


class _Moved(torch.autograd.Function):
    """leaky(z + before; slope) + after, in passes that write over what is there."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, before: Tensor | None, slope: Tensor, after: Tensor | None
    ) -> Tensor:
        v = z if before is None else z + before
        ctx.save_for_backward(v, slope)
        ctx.shapes = [None if t is None else t.shape for t in (before, slope, after)]
        y = torch._prelu_kernel(v, slope.to(v.dtype))
        return y if after is None else y.add_(after)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (v, slope), grad = ctx.saved_tensors, grads[0]
        before, of_slope, after = ctx.shapes
        to_slope = torch.clamp(v, max=0).mul_(grad).sum_to_size(of_slope)
        to_z = torch.lt(v, 0, out=torch.empty_like(v)).mul_(slope - 1).add_(1).mul_(grad)
        to_before = None if before is None else to_z.sum_to_size(before)
        return to_z, to_before, to_slope, None if after is None else grad.sum_to_size(after)


class PReLU(Activation):
    """z where z >= 0, else slope z, a slope for each channel."""

    def __init__(self, channels: int, groups: int = 1, slope: float = PUBLISHED) -> None:
        super().__init__(channels, groups, slope, False)


class RPReLU(Activation):
    """PReLU(z + c0) + c1, everything learnt for each channel.

    Source: ReActNet (ECCV 2020), section 4.2. Differs: the sign of c0 (added, not subtracted).
    """

    def __init__(self, channels: int, slope: float = PUBLISHED) -> None:
        super().__init__(channels, 1, slope, True)


class TaA(Activation):
    """RPReLU with a table for each time group.

    Source: BI-DiffSR (NeurIPS 2024), section 3.4.
    """

    def __init__(self, channels: int, groups: int, slope: float = PUBLISHED) -> None:
        super().__init__(channels, groups, slope, True)


ABSORBED = (nn.ReLU, nn.LeakyReLU, nn.PReLU)
"""Activations of a float model that a block can take over."""


def slope_of(
    activation: nn.Module | None, channels: int, *, normed: bool = False
) -> Tensor | float | None:
    """What an activation does to negative numbers at first: a factor, or one a channel.

    A ReLU behind a batch norm starts as published, with 0.25: what is negative would get no
    gradient at first, and a network of signs that is trained anew falls behind by it.
    Raises: UsageError if it does something else.
    """
    if activation is None:
        return None
    if isinstance(activation, nn.ReLU):
        return PUBLISHED if normed else 0.0
    if isinstance(activation, nn.LeakyReLU):
        return float(activation.negative_slope)
    if isinstance(activation, nn.PReLU):
        return activation.weight.detach().expand(channels)
    raise UsageError(
        f"a block cannot absorb {type(activation).__name__}: leave it in the model, behind it"
    )
