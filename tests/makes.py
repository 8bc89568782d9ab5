"""Small models of many makes, as people bring them, with an example input each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.models import MODELS

WIDE = 32


class ResNet(nn.Module):
    """Batch norms, one ReLU module for all places, a projection with its own norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDE, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDE)
        self.conv1, self.norm1 = nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.BatchNorm2d(WIDE)
        self.conv2, self.norm2 = nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.BatchNorm2d(WIDE)
        self.conv3 = nn.Conv2d(WIDE, 2 * WIDE, 3, stride=2, padding=1)
        self.norm3 = nn.BatchNorm2d(2 * WIDE)
        self.conv4, self.norm4 = nn.Conv2d(2 * WIDE, 2 * WIDE, 3, padding=1), nn.BatchNorm2d(64)
        self.project = nn.Sequential(nn.Conv2d(WIDE, 2 * WIDE, 1, stride=2), nn.BatchNorm2d(64))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(2 * WIDE, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x))))) + x)
        y = self.norm4(self.conv4(self.relu(self.norm3(self.conv3(x)))))
        return self.head(self.relu(y + self.project(x)).mean((2, 3)))


class UNet(nn.Module):
    """A timestep by keyword, group norms, a join with the skip, a strided and an upsampled conv."""

    time_steps = 100

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, WIDE, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, WIDE))
        self.norm1, self.conv1 = nn.GroupNorm(4, WIDE), nn.Conv2d(WIDE, WIDE, 3, padding=1)
        self.down = nn.Conv2d(WIDE, 2 * WIDE, 3, stride=2, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, 64), nn.Conv2d(64, 64, 3, padding=1)
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(64, WIDE, 3, padding=1))
        self.fuse = nn.Conv2d(2 * WIDE, WIDE, 1)
        self.conv3 = nn.Conv2d(WIDE, WIDE, 3, padding=1)
        self.tail = nn.Conv2d(WIDE, 3, 3, padding=1)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        angles = timestep.float()[:, None] * torch.arange(1, 9, device=x.device) / 100
        emb = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x = self.head(x)
        skip = x + self.conv1(F.silu(self.norm1(x))) + emb[:, :, None, None]
        y = self.down(skip)
        y = y + self.conv2(F.silu(self.norm2(y)))
        y = self.fuse(torch.cat([self.up(y), skip], 1))
        return self.tail(F.silu(y + self.conv3(y)))


class ViT(nn.Module):
    """Patches, attention with one linear for q, k and v, an MLP: linears on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDE, 4, stride=4)
        self.norm1, self.norm2 = nn.LayerNorm(WIDE), nn.LayerNorm(WIDE)
        self.qkv, self.proj = nn.Linear(WIDE, 3 * WIDE), nn.Linear(WIDE, WIDE)
        self.fc1, self.fc2 = nn.Linear(WIDE, 4 * WIDE), nn.Linear(4 * WIDE, WIDE)
        self.head = nn.Linear(WIDE, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        n, length, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, length, 3, 4, -1).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-2, -1) * 0.35).softmax(-1) @ v
        x = x + self.proj(y.transpose(1, 2).reshape(n, length, -1))
        return self.head((x + self.fc2(F.gelu(self.fc1(self.norm2(x))))).mean(1))


class ConvNeXt(nn.Module):
    """Depthwise 7 x 7, pointwise by four and back, a layer scale; 2 x 2 with stride 2 between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDE, 4, stride=4)
        self.depthwise = nn.Conv2d(WIDE, WIDE, 7, padding=3, groups=WIDE)
        self.norm = nn.BatchNorm2d(WIDE)
        self.one, self.two = nn.Conv2d(WIDE, 4 * WIDE, 1), nn.Conv2d(4 * WIDE, WIDE, 1)
        self.scale = nn.Parameter(torch.full((WIDE, 1, 1), 0.5))
        self.between = nn.Conv2d(WIDE, 2 * WIDE, 2, stride=2)
        self.head = nn.Conv2d(2 * WIDE, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.scale * self.two(F.gelu(self.one(self.norm(self.depthwise(x)))))
        return self.head(self.between(x))


class Decoder(nn.Module):
    """Transposed convolutions behind an encoder of dilated, grouped and valid ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, WIDE, 3, padding=1)
        self.dilated = nn.Conv2d(WIDE, WIDE, 3, padding=2, dilation=2)
        self.grouped = nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=2)
        self.valid = nn.Conv2d(WIDE, 48, 3)
        self.strided = nn.Conv2d(48, 64, 3, stride=2, padding=1, padding_mode="reflect")
        self.up1, self.norm1 = nn.ConvTranspose2d(64, WIDE, 4, 2, 1), nn.BatchNorm2d(WIDE)
        self.up2 = nn.ConvTranspose2d(WIDE, WIDE, 2, 2)
        self.act = nn.LeakyReLU(0.1)
        self.last = nn.Conv2d(WIDE, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.act(self.dilated(self.act(self.first(x)))))
        x = self.strided(self.act(self.valid(x)))
        return self.last(self.act(self.up2(self.act(self.norm1(self.up1(x))))))


class Functional(nn.Module):
    """Convolutions and linears that are calls on parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.w0 = nn.Parameter(torch.randn(WIDE, 3, 3, 3) / 5)
        self.w1 = nn.Parameter(torch.randn(WIDE, WIDE, 3, 3) / 17)
        self.b1 = nn.Parameter(torch.randn(WIDE) / 10)
        self.w2 = nn.Parameter(torch.randn(64, WIDE) / 6)
        self.w3 = nn.Parameter(torch.randn(5, 64) / 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.w0, padding=1))
        x = F.relu(F.conv2d(x, self.w1, self.b1, stride=2, padding=1)).mean((2, 3))
        return F.linear(F.relu(F.linear(x, self.w2)), self.w3)


class Shared(nn.Module):
    """One convolution and one linear that run three times, behind other norms each time."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, WIDE, 3, padding=1)
        self.smooth = nn.Conv2d(WIDE, WIDE, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(WIDE) for _ in range(3)])
        self.again = self.smooth
        self.last = nn.Conv2d(WIDE, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer, norm in zip((self.smooth, self.again, self.smooth), self.norms, strict=True):
            x = norm(layer(x)).relu()
        return self.last(x)


class Lines(nn.Module):
    """Convolutions of one axis with a norm of one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, WIDE, 3, padding=1)
        self.conv, self.norm = nn.Conv1d(WIDE, 2 * WIDE, 5, padding=2), nn.BatchNorm1d(2 * WIDE)
        self.up = nn.ConvTranspose1d(2 * WIDE, WIDE, 4, 2, 1)
        self.act, self.last = nn.PReLU(2 * WIDE, 0.3), nn.Conv1d(WIDE, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.up(self.act(self.norm(self.conv(self.first(x))))))


class Make(NamedTuple):
    """A model and what it takes."""

    net: nn.Module
    example: Any


def _known(name: str, **config: Any) -> Callable[[], nn.Module]:
    return lambda: MODELS[name].build(**config)


EDSR = {"num_feat": 32, "num_block": 3, "upscale": 2}
RLFN = {"features": 40, "middle": 40, "blocks": 2, "upscale": 2}
SWINIR = {
    "embed_dim": 36, "depths": [2], "num_heads": [3], "window_size": 4, "mlp_ratio": 2.0,
    "upscale": 2, "upsampler": "pixelshuffledirect",
}  # fmt: skip
MAKES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "resnet": (ResNet, lambda: torch.randn(2, 3, 16, 16)),
    "cifar": (_known("resnet-cifar", blocks=[1, 1], width=32), lambda: torch.rand(2, 3, 16, 16)),
    "unet": (
        UNet,
        lambda: {"x": torch.randn(2, 3, 16, 16), "timestep": torch.tensor([3, 97])},
    ),
    "vit": (ViT, lambda: torch.randn(2, 3, 16, 16)),
    "convnext": (ConvNeXt, lambda: torch.randn(2, 3, 32, 32)),
    "decoder": (Decoder, lambda: torch.randn(2, 3, 18, 18)),
    "functional": (Functional, lambda: torch.randn(2, 3, 8, 8)),
    "shared": (Shared, lambda: torch.randn(2, 3, 8, 8)),
    "lines": (Lines, lambda: torch.randn(2, 4, 12)),
    "edsr": (_known("edsr", **EDSR), lambda: torch.rand(2, 3, 12, 12)),
    "rlfn": (_known("rlfn", **RLFN), lambda: 255 * torch.rand(2, 3, 16, 16)),
    "swinir": (_known("swinir", **SWINIR), lambda: torch.rand(1, 3, 16, 16)),
}


PAIRS = [
    *((name, "reactnet") for name in MAKES),
    *((name, "bidiffsr") for name in ("unet", "decoder", "edsr", "vit", "cifar")),
    *((name, "bidense") for name in ("convnext", "lines", "functional", "rlfn", "vit")),
    *((name, "xnor") for name in ("resnet", "shared")),
]
"""Models and methods that are tried together; all with all are the slow tests."""
REST = [
    (name, method)
    for method in ("reactnet", "bidiffsr", "bidense", "xnor", "bireal", "irnet", "bnn", "dorefa")
    for name in MAKES
    if (name, method) not in PAIRS
]


def made(name: str) -> Make:
    """A model by name, in eval mode, its norms having seen data, with an example."""
    torch.manual_seed(0)
    factory, example = MAKES[name]
    net, inputs = factory().eval(), example()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return Make(net, inputs)
