"""BiDense's network for dense prediction: a ConvNeXt encoder, an UperNet decoder, one of two heads.

The float network; in each place where BiDense has a binary block stands a convolution with its
norm (and activation), so that binarising it is a swap.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitcompress.errors import ShapeError
from bitcompress.models.convnext import PAPER_DEPTHS, PAPER_DIMS, STRIDE, ConvNeXt, ConvNorm
from bitcompress.models.resnet_cifar import PIXEL_MEAN, PIXEL_STD

BINS = (1, 2, 4, 6)
"""Sizes to which the last map is pooled."""


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, corner to corner. Shapes: (B, C, h, w) -> (B, C, H, W) of `like`."""
    size = like.shape[-2:]
    if x.shape[-2:] == size:
        return x
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


class Pyramid(nn.Module):
    """The last map joined by what it is on average over coarse grids."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            ConvNorm(channels, channels // len(BINS), 1, act=True) for _ in BINS
        )
        self.fuse = ConvNorm(2 * channels, channels, 3, act=True)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> as x. Raises: ShapeError for one picture in training."""
        if self.training and len(x) == 1:
            raise ShapeError(
                "a dense network cannot be trained on one picture at a time, since it norms the "
                "mean of each: give batches (and parts of them) of 2 or more"
            )
        pooled = [
            resized(part(functional.adaptive_avg_pool2d(x, size)), x)
            for size, part in zip(BINS, self.parts, strict=True)
        ]
        return self.dropout(self.fuse(torch.cat([x, *pooled], 1)))  # type: ignore[no-any-return]


class UperNet(nn.Module):
    """Four maps to one of the size of the first.

    Shapes: (B, dims[i], H / 2^i, W / 2^i) -> (B, dims[0], H, W).
    Source: BiDense's decoder: neighbouring maps are added pairwise, not accumulated, and one
        smoothing convolution serves the three sums. Differs: no shift behind the last activation.
    """

    def __init__(self, dims: Sequence[int], dropout: float) -> None:
        super().__init__()
        channels = dims[0]
        self.pyramid = Pyramid(dims[-1], dropout)
        self.laterals = nn.ModuleList(ConvNorm(d, channels, 1) for d in dims[1:])
        self.smooth = ConvNorm(channels, channels, 3)
        self.fuse = ConvNorm(len(dims) * channels, channels, 3, act=True)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Shapes: four maps, large to small -> (B, dims[0], H, W)."""
        deep = [*maps[1:-1], self.pyramid(maps[-1])]
        levels = [maps[0], *(lateral(m) for lateral, m in zip(self.laterals, deep, strict=True))]
        sums = [
            self.smooth(resized(small, large) + large)
            for large, small in zip(levels[:-1], levels[1:], strict=True)
        ]
        joined = [resized(part, sums[0]) for part in (*sums, levels[-1])]
        return self.fuse(torch.cat(joined, 1))  # type: ignore[no-any-return]


class ConvNeXtUper(nn.Module):
    """Classes or depths of all pixels of a picture.

    With `classes` it gives logits (N, classes, H, W); with `max_depth` depths (N, 1, H, W) in
    0..max_depth, in whatever unit that has. Exactly one of the two is given.
    Shapes: (N, 3, H, W), at least 32 pixels a side; any other size is fine.
    Units: pixels in [0, 1]; the network normalises them itself.
    Source: BiDense (arXiv 2411.10346), UperNet on ConvNeXt-T; `width` is that of the convolution
        before the head.
    """

    image_range = 1.0
    mean: Tensor
    std: Tensor
    max_depth: Tensor | None

    def __init__(
        self,
        classes: int | None = None,
        max_depth: float | None = None,
        depths: Sequence[int] = PAPER_DEPTHS,
        dims: Sequence[int] = PAPER_DIMS,
        width: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if (classes is None) == (max_depth is None):
            raise ShapeError("a dense network has one head: give classes or max_depth")
        self.task = "depth" if classes is None else "segment"
        for name, values in (("mean", PIXEL_MEAN), ("std", PIXEL_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        # In the checkpoint, since no shape tells it.
        limit = None if max_depth is None else torch.tensor(float(max_depth))
        self.register_buffer("max_depth", limit)
        self.encoder = ConvNeXt(depths, dims)
        self.decoder = UperNet(dims, dropout)
        self.out = ConvNorm(dims[0], width, 3)
        inner = width if classes is not None else max(1, width // 4)
        self.head = ConvNorm(width, inner, 3)
        self.act = nn.ReLU()
        self.score = nn.Conv2d(inner, 1 if classes is None else classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, 3, H, W) -> (N, classes or 1, H, W)."""
        if min(x.shape[-2:]) < STRIDE:
            raise ShapeError(
                f"a picture of {x.shape[-1]}x{x.shape[-2]} is too small: dense networks need "
                f"{STRIDE} pixels a side"
            )
        maps = self.encoder((x - self.mean) / self.std)
        y = resized(self.out(self.decoder(maps)), x)
        y = self.score(self.act(self.head(y)))
        return y if self.max_depth is None else torch.sigmoid(y) * self.max_depth
