"""Activations of binary blocks: PReLU, RPReLU, TaA, all one form with a table for time groups."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor, nn

from bitcompress.errors import UsageError
from bitcompress.packed.binary import TailStep


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

    def extra_repr(self) -> str:
        """Sizes, for print(model)."""
        return f"{self.channels}" + (f", groups={self.groups}" if self.groups > 1 else "")


class PReLU(Activation):
    """z where z >= 0, else slope z, a slope for each channel."""

    def __init__(self, channels: int, groups: int = 1, slope: float = 0.25) -> None:
        super().__init__(channels, groups, slope, False)


class RPReLU(Activation):
    """PReLU(z + c0) + c1, everything learnt for each channel.

    Source: ReActNet (ECCV 2020), section 4.2. Differs: the sign of c0 (added, not subtracted).
    """

    def __init__(self, channels: int, slope: float = 0.25) -> None:
        super().__init__(channels, 1, slope, True)


class TaA(Activation):
    """RPReLU with a table for each time group.

    Source: BI-DiffSR (NeurIPS 2024), section 3.4.
    """

    def __init__(self, channels: int, groups: int, slope: float = 0.25) -> None:
        super().__init__(channels, groups, slope, True)


ABSORBED = (nn.ReLU, nn.LeakyReLU, nn.PReLU)
"""Activations of a float model that a block can take over."""


def slope_of(activation: nn.Module | None, channels: int) -> Tensor | float | None:
    """What an activation does to negative numbers: a factor, or one a channel.

    Raises: UsageError if it does something else.
    """
    if activation is None:
        return None
    if isinstance(activation, nn.ReLU):
        return 0.0
    if isinstance(activation, nn.LeakyReLU):
        return float(activation.negative_slope)
    if isinstance(activation, nn.PReLU):
        return activation.weight.detach().expand(channels)
    raise UsageError(
        f"a block cannot absorb {type(activation).__name__}: leave it in the model, behind it"
    )
