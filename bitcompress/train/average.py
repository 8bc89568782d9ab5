"""The moving average of parameters and buffers that a model may end with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Average:
    """decay * average + (1 - decay) * now, after each step, of every tensor of real numbers.

    The decay grows from nothing, min(decay, (1 + n) / (10 + n)) at the n-th step, so that a short
    run does not end with its first weights. Whole numbers, and what began infinite (masks), are
    those of the last step.
    Source: Polyak and Juditsky 1992; the warm-up is TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, tensors: Sequence[Tensor], decay: float) -> None:
        self.tensors, self.decay = list(tensors), decay
        self.values = [t.detach().clone() for t in tensors]
        self.moving = [
            t.is_floating_point() and bool(torch.isfinite(t).all()) for t in self.tensors
        ]

    @torch.no_grad()
    def restart(self) -> None:
        """Forget all but what the tensors are now."""
        for value, tensor in zip(self.values, self.tensors, strict=True):
            value.copy_(tensor)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in what the tensors are after a step, counted from 0 since the last restart."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for value, tensor, moves in zip(self.values, self.tensors, self.moving, strict=True):
            if moves:
                value.lerp_(tensor.detach(), 1 - keep)
            else:
                value.copy_(tensor)

    @torch.no_grad()
    def load(self) -> None:
        """Make the average the value of the tensors."""
        for value, tensor in zip(self.values, self.tensors, strict=True):
            tensor.copy_(value)
