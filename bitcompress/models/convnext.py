"""A ConvNeXt encoder written as convolution, norm, activation: the form that binary blocks take.

Each convolution stands with its own batch norm, as in BiDense, so that a binary block can take the
place of both; the residual around each block is ConvNeXt's and lets the float network learn.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

PAPER_DEPTHS, PAPER_DIMS = (3, 3, 9, 3), (96, 192, 384, 768)
TINY_DEPTHS, TINY_DIMS = (1, 1, 2, 1), (32, 64, 128, 256)
STRIDE = 32
"""Of the last map to the picture."""


class ConvNorm(nn.Module):
    """A convolution without bias and its batch norm, with an activation by channel or none."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1,
        act: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        padding = 0 if stride == kernel else kernel // 2
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride=stride, padding=padding, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(outputs)
        self.act: nn.Module = nn.PReLU(outputs) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return self.act(self.norm(self.conv(x)))  # type: ignore[no-any-return]


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, then 1x1 to four times the channels and back, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = ConvNorm(channels, channels, 7, groups=channels)
        self.widen = ConvNorm(channels, 4 * channels, 1, act=True)
        self.narrow = ConvNorm(4 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> as x."""
        return x + self.narrow(self.widen(self.depthwise(x)))  # type: ignore[no-any-return]


class ConvNeXt(nn.Module):
    """Four stages of blocks at strides 4, 8, 16 and 32.

    Shapes: (N, 3, H, W) -> four maps (N, dims[i], H / 4 / 2^i, W / 4 / 2^i), sizes rounded down.
    Source: Liu et al., A ConvNet for the 2020s, 2022, in the form of BiDense (arXiv 2411.10346).
        Differs from ConvNeXt: batch norm behind each convolution for one layer norm a block, PReLU
        for GELU, no layer scale, no stochastic depth. Differs from BiDense: the float network keeps
        the residual around a block, where BiDense has a bypass around each convolution.
    """

    def __init__(
        self, depths: Sequence[int] = PAPER_DEPTHS, dims: Sequence[int] = PAPER_DIMS
    ) -> None:
        super().__init__()
        self.dims = tuple(dims)
        # The one convolution with a bias, as published: it never becomes a binary block.
        self.stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), nn.BatchNorm2d(dims[0]))
        self.downs = nn.ModuleList(
            ConvNorm(a, b, 2, stride=2) for a, b in zip(dims[:-1], dims[1:], strict=True)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(channels) for _ in range(depth)))
            for depth, channels in zip(depths, dims, strict=True)
        )
        for module in self.modules():
            if isinstance(module, ConvNeXtBlock):  # a block starts as a small step
                nn.init.constant_(module.narrow.norm.weight, 0.2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Shapes: (N, 3, H, W) -> four maps, large to small."""
        x = self.stem(x)
        maps = [x := self.stages[0](x)]
        for down, stage in zip(self.downs, list(self.stages)[1:], strict=True):
            maps.append(x := stage(down(x)))
        return maps
