"""How BI-DiffSR changes sizes around layers that keep them: CP-Down, CP-Up and the fusion of skips.

Every convolution here has as many channels out as in, so that a binary one can carry an identity
shortcut; what changes shape is pixel (un)shuffle and the choice of channels. The convolutions come
from a factory, so that one wiring serves float and binary networks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitcompress.errors import UsageError

Conv = Callable[[int, int, int], nn.Module]
"""(channels in, channels out, odd kernel) -> a layer that keeps height and width."""


def float_conv(c_in: int, c_out: int, kernel: int) -> nn.Conv2d:
    """A plain convolution with bias and true zero padding."""
    return nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)


def _even(channels: int, what: str) -> None:
    if channels < 2 or channels % 2:
        raise UsageError(f"{what} halves its channels, so {channels} of them do not do: give pairs")


class CPDown(nn.Module):
    """Both halves of the channels convolved, added, and 2x2 pixels laid into channels.

    Shapes: (N, C, H, W) -> (N, 2C, H/2, W/2); C, H and W even.
    Source: BI-DiffSR (NeurIPS 2024), channel-pixel downsampling.
    """

    def __init__(self, channels: int, conv: Conv = float_conv) -> None:
        super().__init__()
        _even(channels, "CP-Down")
        self.conv1 = conv(channels // 2, channels // 2, 3)
        self.conv2 = conv(channels // 2, channels // 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, 2C, H/2, W/2)."""
        first, second = x.chunk(2, 1)
        return functional.pixel_unshuffle(self.conv1(first) + self.conv2(second), 2)


class CPUp(nn.Module):
    """Two convolutions of all channels side by side, and fours of channels laid into 2x2 pixels.

    Shapes: (N, C, H, W) -> (N, C/2, 2H, 2W); C even.
    Source: BI-DiffSR (NeurIPS 2024), channel-pixel upsampling.
    """

    def __init__(self, channels: int, conv: Conv = float_conv) -> None:
        super().__init__()
        _even(channels, "CP-Up")
        self.conv1 = conv(channels, channels, 3)
        self.conv2 = conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, C/2, 2H, 2W)."""
        return functional.pixel_shuffle(torch.cat([self.conv1(x), self.conv2(x)], 1), 2)


class ShuffleDown(nn.Module):
    """One convolution to half the channels, then pixel unshuffle: the paper's baseline.

    Shapes: (N, C, H, W) -> (N, 2C, H/2, W/2). No identity can stand beside this convolution.
    """

    def __init__(self, channels: int, conv: Conv = float_conv) -> None:
        super().__init__()
        _even(channels, "downsampling by pixel unshuffle")
        self.conv = conv(channels, channels // 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, 2C, H/2, W/2)."""
        return functional.pixel_unshuffle(self.conv(x), 2)


class ShuffleUp(nn.Module):
    """One convolution to twice the channels, then pixel shuffle: the paper's baseline.

    Shapes: (N, C, H, W) -> (N, C/2, 2H, 2W).
    """

    def __init__(self, channels: int, conv: Conv = float_conv) -> None:
        super().__init__()
        _even(channels, "upsampling by pixel shuffle")
        self.conv = conv(channels, 2 * channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> (N, C/2, 2H, 2W)."""
        return functional.pixel_shuffle(self.conv(x), 2)


class CSFusion(nn.Module):
    """Decoder feature and skip exchange their odd and even channels, so both halves have one range.

    Shapes: (N, C, H, W) twice -> (N, C, H, W); C even.
    Source: BI-DiffSR (NeurIPS 2024), channel-shuffle fusion.
    """

    def __init__(self, channels: int, conv: Conv = float_conv) -> None:
        super().__init__()
        _even(channels, "CS-Fusion")
        self.conv1 = conv(channels, channels, 1)
        self.conv2 = conv(channels, channels, 1)

    def forward(self, decoder: Tensor, skip: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) twice -> (N, C, H, W)."""
        first = torch.cat([decoder[:, 1::2], skip[:, 0::2]], 1)
        second = torch.cat([decoder[:, 0::2], skip[:, 1::2]], 1)
        return self.conv1(first) + self.conv2(second)  # type: ignore[no-any-return]


class SplitFusion(nn.Module):
    """As CS-Fusion without the exchange: each convolution sees one of the two inputs."""

    def __init__(self, channels: int, conv: Conv = float_conv) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels, 1)
        self.conv2 = conv(channels, channels, 1)

    def forward(self, decoder: Tensor, skip: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) twice -> (N, C, H, W)."""
        return self.conv1(decoder) + self.conv2(skip)  # type: ignore[no-any-return]


class ConcatFusion(nn.Module):
    """One convolution of both inputs side by side, as in the UNet of DDPM."""

    def __init__(self, channels: int, conv: Conv = float_conv) -> None:
        super().__init__()
        self.conv = conv(2 * channels, channels, 1)

    def forward(self, decoder: Tensor, skip: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) twice -> (N, C, H, W)."""
        return self.conv(torch.cat([decoder, skip], 1))  # type: ignore[no-any-return]


class AddFusion(nn.Module):
    """The sum of both inputs: no parameter."""

    def __init__(self, channels: int, conv: Conv = float_conv) -> None:
        super().__init__()

    def forward(self, decoder: Tensor, skip: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) twice -> (N, C, H, W)."""
        return decoder + skip


FUSIONS: dict[str, Callable[[int, Conv], nn.Module]] = {
    "cs": CSFusion,
    "split": SplitFusion,
    "concat": ConcatFusion,
    "add": AddFusion,
}
RESAMPLERS: dict[str, tuple[Callable[[int, Conv], nn.Module], Callable[[int, Conv], nn.Module]]] = {
    "cp": (CPDown, CPUp),
    "shuffle": (ShuffleDown, ShuffleUp),
}
"""The layer that goes down and the one that goes up."""
