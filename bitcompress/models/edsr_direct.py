"""EDSR with one convolution before and one behind its body: the body alone decides.

The network on which binary blocks for super-resolution are compared. Its head and its tail (one
3x3 convolution each, and a pixel shuffle) stay float, and without the body they are a linear
upscaler: what a binary body adds is what stands above that.
"""

from __future__ import annotations

from torch import Tensor, nn

from bitcompress.models.tail import mean_buffer


class DirectBlock(nn.Module):
    """Two convolutions with a ReLU between them, added to the input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> as x."""
        return x + self.conv2(self.act(self.conv1(x)))  # type: ignore[no-any-return]


class EDSRDirect(nn.Module):
    """Super-resolution by residual blocks between two convolutions.

    Shapes: (N, 3, H, W) -> (N, 3, upscale * H, upscale * W).
    Units: pixels in [0, 1].
    Source: our design after Lim et al., Enhanced Deep Residual Networks, 2017. Differs: the tail is
        one convolution to 3 * upscale^2 channels and a shuffle, there is no convolution after the
        body, and pixels are not multiplied by 255, so that features stay near [-1, 1].
    """

    image_range = 1.0
    mean: Tensor

    def __init__(
        self, num_feat: int = 64, num_block: int = 4, upscale: int = 2, body: bool = True
    ) -> None:
        super().__init__()
        self.scale = upscale
        self.register_buffer("mean", mean_buffer(3), persistent=False)
        self.conv_head = nn.Conv2d(3, num_feat, 3, padding=1)
        blocks = (DirectBlock(num_feat) for _ in range(num_block if body else 0))
        self.body = nn.Sequential(*blocks)
        self.conv_tail = nn.Conv2d(num_feat, 3 * upscale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, 3, H, W) -> (N, 3, scale * H, scale * W)."""
        made: Tensor = self.shuffle(self.conv_tail(self.body(self.conv_head(x - self.mean))))
        return made + self.mean
