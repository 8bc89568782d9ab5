"""The activation behind a sum of the model's own: it learns like those inside blocks.

Where a residual of the model ends at a block, the float activation reads the sum, which no block
holds. A ReLU there lets half of the real-valued way through; this stands in its place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import ShapeError
from bitcompress.layers.binary.activations import Activation, PReLU, RPReLU, slope_of
from bitcompress.packed.binary import TailStep, run_tail

KINDS: dict[str, type[PReLU] | type[RPReLU]] = {"prelu": PReLU, "rprelu": RPReLU}
"""The activations that may stand there, by the word that methods have for them."""


class EndActivation(nn.Module):
    """PReLU or RPReLU behind the sum of a block and the model's own shortcut.

    Shapes: x (N, O, ...) for axis 1 or (..., O) for -1. Returns: like x.
    """

    def __init__(self, act: Activation, axis: int) -> None:
        super().__init__()
        self.act, self.axis = act, axis

    def forward(self, x: Tensor) -> Tensor:
        """In eval the steps that a packed model runs, with their bits.

        Raises: ShapeError for another number of channels.
        """
        if x.dim() < 2 or x.shape[self.axis] != self.act.channels:
            raise ShapeError(
                f"an activation of {self.act.channels} channels was given {tuple(x.shape)}"
            )
        if self.training:
            y: Tensor = self.act(x, self.axis, None)
            return y
        return run_tail(x, self.steps(), self.axis, None, None)

    def steps(self) -> list[TailStep]:
        """What it does, in order."""
        return self.act.steps()

    def settings(self) -> dict[str, Any]:
        """What a file says of it beside its numbers."""
        kind = next(word for word, made in KINDS.items() if type(self.act) is made)
        return {"act": kind, "channels": self.act.channels, "axis": self.axis}

    @classmethod
    def build(cls, settings: dict[str, Any]) -> EndActivation:
        """One of those settings, its numbers still to come."""
        return cls(KINDS[settings["act"]](settings["channels"]), settings["axis"])


def end_activation(
    kind: str, given: nn.Module, channels: int, axis: int, *, normed: bool = False
) -> EndActivation:
    """What stands in the place of a float activation: it starts as that one (see `slope_of`).

    Raises: UsageError for an activation that none of the two can start as.
    """
    made = KINDS[kind](channels)
    slope = slope_of(given, channels, normed=normed)
    with torch.no_grad():
        made.slope.copy_(torch.as_tensor(slope).expand(made.slope.shape))
    return EndActivation(made, axis)
