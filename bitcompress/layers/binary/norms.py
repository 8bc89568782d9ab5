"""Norms behind binary sums: in eval each is a gain and a shift for every channel, or layer norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitcompress.errors import UsageError
from bitcompress.layers.binary.axes import PICTURES


class ChannelAffine(nn.Module):
    """weight z + bias for each channel: a norm without statistics, for models that had none."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def fold(self) -> tuple[Tensor, Tensor]:
        """Gain and shift."""
        return self.weight, self.bias


class ChannelBatchNorm(_BatchNorm):
    """Batch norm over the channels of pictures (axis 1) or tokens (last axis), folded in eval.

    Its state is that of torch's batch norms, whose instance it is.
    """

    axis = PICTURES

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        """Any number of axes will do."""

    @classmethod
    def like(cls, norm: _BatchNorm, axis: int) -> ChannelBatchNorm:
        """The same norm, its parameters and statistics copied."""
        if norm.running_mean is None or norm.running_var is None:
            raise UsageError("a batch norm without running statistics has no eval form to absorb")
        made = cls(norm.num_features, norm.eps, norm.momentum, True, True)
        made.axis = axis
        made.load_state_dict(
            {**made.state_dict(), **{k: v.clone() for k, v in norm.state_dict().items()}}
        )
        return made

    def fold(self) -> tuple[Tensor, Tensor]:
        """Gain and shift of the running statistics."""
        assert self.running_mean is not None and self.running_var is not None
        root = torch.sqrt((self.running_var + self.eps).double()).float()
        gain = self.weight / root
        return gain, self.bias - self.running_mean * gain

    @torch.no_grad()
    def take(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards those of a batch of `count` numbers a channel.

        Shapes: mean, variance (O,); the variance is that of the batch itself, not unbiased.
        """
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        share = 1.0 / float(self.num_batches_tracked) if share is None else share
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = variance * (count / max(count - 1, 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)

    def forward(self, z: Tensor) -> Tensor:
        """With the statistics of the batch, as training does."""
        if self.axis == PICTURES or z.dim() == 2:
            return super().forward(z)
        return super().forward(z.flatten(0, -2)).view(z.shape)


class ChannelLayerNorm(nn.Module):
    """Layer norm over the channels of tokens; in eval that of packed/norm.py."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, z: Tensor) -> Tensor:
        """Shapes: z (..., C)."""
        return F.layer_norm(z, self.weight.shape, self.weight, self.bias, self.eps)


BlockNorm = ChannelAffine | ChannelBatchNorm | ChannelLayerNorm


def norm_of(kind: str, channels: int, given: nn.Module | None, axis: int) -> BlockNorm | None:
    """The norm of a block: `kind`, or the one of the float model that it absorbs.

    Raises: UsageError if that one is no batch norm.
    """
    if given is not None and not isinstance(given, _BatchNorm):
        raise UsageError(f"a block can absorb a batch norm, not {type(given).__name__}")
    if kind == "batch":
        if given is not None:
            return ChannelBatchNorm.like(given, axis)
        made = ChannelBatchNorm(channels)
        made.axis = axis
        return made
    if kind == "affine":
        made_affine = ChannelAffine(channels)
        if given is not None:
            with torch.no_grad():
                gain, shift = ChannelBatchNorm.like(given, axis).fold()
                made_affine.weight.copy_(gain)
                made_affine.bias.copy_(shift)
        return made_affine
    return ChannelLayerNorm(channels) if kind == "layer" else None
