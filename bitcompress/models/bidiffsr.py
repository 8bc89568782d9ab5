"""The noise-predicting UNet of BI-DiffSR; a factory gives it float or binary convolutions.

The network is built so that every body convolution has as many channels out as in, at the same
size. With the default factory it is the float twin; `bitcompress.tasks.bidiffsr` builds the binary
one of the paper by giving it binary blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitcompress.errors import DataError, UsageError
from bitcompress.models.diffusion import STEPS, linear_schedule
from bitcompress.models.reshape import FUSIONS, RESAMPLERS, Conv, float_conv

PAPER: dict[str, Any] = {
    "inner": 64,
    "mult": (1, 2, 4, 8),
    "blocks": 2,
    "groups": 16,
    "fp_levels": 2,
}
"""The released size: 56 body convolutions, 12 skips."""
TINY: dict[str, Any] = {
    "inner": 16,
    "mult": (1, 2),
    "blocks": 1,
    "groups": 8,
    "fp_levels": 1,
    "attention": False,
}
"""For a CPU. Attention over all pixels at half size would cost more than all the rest."""
SIZES: dict[str, dict[str, Any]] = {"paper": PAPER, "tiny": TINY}
FIRST_PERIOD = 1e4


class TimeEmbedding(nn.Module):
    """Sines and cosines of the integer timestep, then two linear layers.

    Shapes: (N,) -> (N, inner).
    Source: BI-DiffSR, released code: the timestep itself, not the noise level of SR3.
    """

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.waves = inner // 2
        self.fc1 = nn.Linear(inner, 4 * inner)
        self.fc2 = nn.Linear(4 * inner, inner)

    def forward(self, t: Tensor) -> Tensor:
        """Shapes: (N,) integers -> (N, inner)."""
        steps = torch.arange(self.waves, device=t.device, dtype=torch.float32)
        rates = torch.exp(steps * (-math.log(FIRST_PERIOD) / self.waves))
        angles = t.to(torch.float32)[:, None] * rates[None]
        waves = torch.cat([angles.sin(), angles.cos()], 1).to(self.fc1.weight)
        return self.fc2(functional.silu(self.fc1(waves)))  # type: ignore[no-any-return]


class ResBlock(nn.Module):
    """Two normed convolutions with the timestep between them, around an identity.

    Shapes: (N, C, H, W) and the embedding (N, T) -> (N, C, H, W).
    """

    def __init__(self, channels: int, time: int, groups: int, dropout: float, conv: Conv) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = conv(channels, channels, 3)
        self.time = nn.Linear(time, channels)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(channels, channels, 3)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Shapes: (N, C, H, W), (N, T) -> (N, C, H, W)."""
        h = self.conv1(functional.silu(self.norm1(x)))
        h = h + self.time(functional.silu(embedding))[:, :, None, None]
        h = self.conv2(self.dropout(functional.silu(self.norm2(h))))
        return h + x  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Every pixel attends to every pixel, one head, around an identity; always float.

    Shapes: (N, C, H, W) -> as x. Memory grows with H W alone where torch has a fused kernel.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) -> as x."""
        tokens = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1)
        q, k, v = tokens.chunk(3, -1)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.squeeze(1).transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class UpStep(nn.Module):
    """One skip is fused into the decoder, then a residual block."""

    def __init__(self, fusion: nn.Module, block: ResBlock) -> None:
        super().__init__()
        self.fusion = fusion
        self.block = block

    def forward(self, x: Tensor, skip: Tensor, embedding: Tensor) -> Tensor:
        """Shapes: (N, C, H, W) twice, (N, T) -> (N, C, H, W)."""
        return self.block(self.fusion(x, skip), embedding)  # type: ignore[no-any-return]


class ResidualNoise(nn.Module):
    """Noise as what a Gaussian around the condition explains, plus what a network adds to it.

    Were the photograph y + spread * (standard normal), the noise in x = a x0 + s eps would be
    s (x - a y) / (a^2 spread^2 + s^2) on average, with deviation a spread / sqrt(a^2 spread^2 +
    s^2). The network gives the rest in units of that deviation, so that its target has one size at
    all timesteps, and its error is never magnified in the estimate of the photograph.
    Source: our own, after the preconditioning of EDM (Karras et al. 2022); no part of BI-DiffSR.
    """

    ratio: Tensor

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = spread
        kept = linear_schedule().kept
        # All three factors follow from it, well conditioned: one table in an exported file.
        self.register_buffer("ratio", (kept / (1 - kept)).float(), persistent=False)

    def forward(self, said: Tensor, noisy: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        """Shapes: (N, 3, H, W) three times, (N,) -> (N, 3, H, W)."""
        ratio = self.ratio.index_select(0, t.long()).view(-1, 1, 1, 1)  # a^2 / s^2
        total = ratio * self.spread**2 + 1  # in units of s^2, which is 1 / (ratio + 1)
        signal = (ratio / (ratio + 1)).sqrt()
        guess = (ratio + 1).sqrt() / total
        width = self.spread * (ratio / total).sqrt()
        return guess * (noisy - signal * condition) + width * said


class BiDiffSR(nn.Module):
    """Predicts the noise in a noisy picture, given the enlarged low-resolution one and the step.

    `conv` builds the body convolutions; the decoder steps of the top `fp_levels` resolutions, head,
    tail, embeddings, norms and attention are float always. `fusion` and `resample` choose among
    `FUSIONS` and `RESAMPLERS`; "cs" and "cp" are the paper's. With `spread`, a deviation, the
    network learns what `ResidualNoise` leaves; None is the paper's.

    Shapes: (N, 3, H, W) twice, (N,) integers -> (N, 3, H, W); H and W divisible by `multiple`.
    Units: pixels in [0, 1]; timesteps 0 to T - 1, each sample its own.
    Source: Chen et al., Binarized Diffusion Model for Image Super-Resolution, NeurIPS 2024.
    Deviation: the sums of the float twin (no identity in its body convolutions) follow the paper's
    full-precision modules; the paper never runs such a network as a whole.
    """

    task = "diffusion"
    image_range = 1.0
    time_steps = STEPS

    def __init__(
        self,
        inner: int = 64,
        mult: Sequence[int] = (1, 2, 4, 8),
        blocks: int = 2,
        groups: int = 16,
        fp_levels: int = 2,
        dropout: float = 0.2,
        attention: bool = True,
        fusion: str = "cs",
        resample: str = "cp",
        spread: float | None = None,
        conv: Conv = float_conv,
    ) -> None:
        super().__init__()
        _check(inner, mult, groups, fusion, resample)
        down_layer, up_layer = RESAMPLERS[resample]
        fuse = FUSIONS[fusion]
        widths = [inner * m for m in mult]
        self.multiple = 2 ** (len(mult) - 1)
        """Height and width must be multiples of this."""

        def block(channels: int, layer: Conv = conv) -> ResBlock:
            return ResBlock(channels, inner, groups, dropout, layer)

        self.time = TimeEmbedding(inner)
        self.head = nn.Conv2d(6, inner, 3, padding=1)
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.extend(block(width) for _ in range(blocks))
            if level + 1 < len(widths):
                self.down.append(down_layer(width, conv))
        self.mid1 = block(widths[-1])
        self.attention = Attention(widths[-1], groups) if attention else nn.Identity()
        self.mid2 = block(widths[-1])
        self.up = nn.ModuleList()
        kept = ["head", "tail", "time.*", "*.time"] + (["attention.*"] if attention else [])
        for level, width in reversed(list(enumerate(widths))):
            layer = float_conv if level < fp_levels else conv
            for _ in range(blocks + 1):
                kept += [f"up.{len(self.up)}.*"] if level < fp_levels else []
                self.up.append(UpStep(fuse(width, layer), block(width, layer)))
            if level:
                self.up.append(up_layer(width, conv))
        self.float_layers = tuple(kept)
        """Wildcards of the layers that the paper keeps float: what a policy is to keep."""
        self.norm = nn.GroupNorm(groups, inner)
        self.tail = nn.Conv2d(inner, 3, 3, padding=1)
        self.residual = None if spread is None else ResidualNoise(spread)

    def forward(self, noisy: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        """Shapes: (N, 3, H, W), (N, 3, H, W), (N,) -> (N, 3, H, W).

        Raises: DataError where sizes or the timesteps do not fit.
        """
        self._check_inputs(noisy, condition, t)
        embedding = self.time(t)
        x = self.head(torch.cat([condition, noisy], 1))
        skips = [x]
        for step in self.down:
            x = step(x, embedding) if isinstance(step, ResBlock) else step(x)
            skips.append(x)
        x = self.mid2(self.attention(self.mid1(x, embedding)), embedding)
        for step in self.up:
            x = step(x, skips.pop(), embedding) if isinstance(step, UpStep) else step(x)
        said = self.tail(functional.silu(self.norm(x)))
        return said if self.residual is None else self.residual(said, noisy, condition, t)  # type: ignore[no-any-return]

    def _check_inputs(self, noisy: Tensor, condition: Tensor, t: Tensor) -> None:
        height, width = noisy.shape[-2:]
        if noisy.dim() != 4 or noisy.shape != condition.shape:
            raise DataError(
                f"the noisy picture is {tuple(noisy.shape)} and its condition "
                f"{tuple(condition.shape)}: both are (N, 3, H, W), the low-resolution picture "
                "enlarged to the size of the result"
            )
        if height % self.multiple or width % self.multiple:
            raise DataError(
                f"a picture of {height}x{width} cannot be halved down to 1/{self.multiple}: pad "
                f"it to multiples of {self.multiple}"
            )
        if t.dim() != 1 or t.shape[0] != noisy.shape[0] or t.is_floating_point():
            raise DataError(
                f"the timestep is {t.dtype} of shape {tuple(t.shape)}; integers of shape "
                f"({noisy.shape[0]},), one for each picture, are needed"
            )


def _check(inner: int, mult: Sequence[int], groups: int, fusion: str, resample: str) -> None:
    """Refuse sizes that no UNet of this shape has, with what would do."""
    if fusion not in FUSIONS or resample not in RESAMPLERS:
        raise UsageError(
            f"fusion {fusion!r} with resampling {resample!r} is unknown: give one of "
            f"{', '.join(FUSIONS)} and one of {', '.join(RESAMPLERS)}"
        )
    if not mult or any(m != 2**level for level, m in enumerate(mult)):
        raise UsageError(
            f"channels grow as {list(mult)}; going down doubles them, so 1, 2, 4, ... is needed"
        )
    if inner < 2 or inner % 2 or inner % groups:
        raise UsageError(
            f"{inner} channels cannot be normed in {groups} groups and halved: give an even "
            f"multiple of {groups}"
        )
