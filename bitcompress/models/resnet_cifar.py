"""The thin residual networks for pictures of 32 x 32: ResNet-20, 32, 44, 56, 110."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two normed convolutions and a shortcut without parameters ("option A")."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.added = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.added:
            x = functional.pad(x, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return torch.relu(y + x)


class CosineLinear(nn.Module):
    """A classifier that sees directions alone: scaled cosines of features and class vectors.

    The length of a class vector grows with the number of its training pictures; here it has no say,
    so that classes with few pictures are not outvoted.
    Source: the normalised classifier of long-tail recognition (e.g. BCL, 2022), scale 30.
    """

    def __init__(self, inputs: int, classes: int, scale: float = 30.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(classes, inputs)))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, inputs) -> (N, classes), in -scale..scale."""
        features, classes = functional.normalize(x), functional.normalize(self.weight)
        return functional.linear(features, classes) * self.scale


class ResNetCifar(nn.Module):
    """A residual network for small pictures.

    Shapes: (N, 3, H, W) -> (N, classes) logits.
    Units: pixels in [0, 1]; the network normalises them itself (by the mean and deviation that
    the published checkpoints were trained with), so that callers need not know.
    With `cosine` the last layer is a `CosineLinear`, for classes of uneven size.
    Source: He et al., Deep Residual Learning, 2016, section 4.2, shortcut option A.
    """

    image_range = 1.0
    mean: Tensor
    std: Tensor

    def __init__(
        self, blocks: Sequence[int], width: int = 16, classes: int = 10, cosine: bool = False
    ) -> None:
        super().__init__()
        shape = (1, 3, 1, 1)
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(PIXEL_STD).view(shape), persistent=False)
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = [f"layer{index + 1}" for index in range(len(blocks))]
        inputs = width
        for index, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            outputs = width << index
            stage = nn.Sequential()
            for block in range(count):
                stage.append(BasicBlock(inputs, outputs, 2 if index > 0 and block == 0 else 1))
                inputs = outputs
            self.add_module(name, stage)
        head: nn.Module = CosineLinear(inputs, classes) if cosine else nn.Linear(inputs, classes)
        self.linear = head

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, 3, H, W) -> (N, classes)."""
        x = torch.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.linear(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]
