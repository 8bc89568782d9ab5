"""Where activations are cut in two: RSign, TaR, DAB.

Each has two faces that agree bit for bit. `forward` gives signs with surrogate gradients, for
training; `bounds` gives what the packed twin compares raw x with: x >= theta, and DAB's scale.
`gain` (C,), powers of two, brings features into the window [-1, 1] in which a surrogate has
gradients; theta = -bias / gain is exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bitcompress import native
from bitcompress.errors import UsageError
from bitcompress.layers.binary.axes import PICTURES, along, over_places
from bitcompress.native import is_traced
from bitcompress.packed.binary import rows_of
from bitcompress.packed.dab import WORD, DabTables, bounded, dab_bounds, dab_means, words_mean
from bitcompress.quant.sign import Sign

MODES = ("none", "tensor", "group", "channel")


class Cut(NamedTuple):
    """Where a run cuts. Shapes: theta (C,) or (N, C); scale None, (N, words) or (N, C)."""

    theta: Tensor
    scale: Tensor | None


class Threshold(nn.Module, ABC):
    """What all thresholds share: a table of biases, an input gain, the surrogate."""

    gain: Tensor
    groups = 1

    def __init__(self, channels: int, groups: int, surrogate: str, axis: int) -> None:
        super().__init__()
        self.channels, self.groups, self.axis = channels, groups, axis
        self.bias = nn.Parameter(torch.zeros(groups, channels))
        self.register_buffer("gain", torch.ones(channels))
        self.sign = Sign(surrogate)

    def table(self) -> Tensor:
        """theta for each group, (K, C)."""
        return -self.bias.detach() / self.gain

    def _gain(self, x: Tensor) -> Tensor | None:
        plain = bool((self.gain == 1).all())
        return None if plain else along(self.gain, x.dim(), self.axis)

    @abstractmethod
    def forward(
        self, x: Tensor, index: Tensor | None = None, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Signs of `seen` (x, or x with its border), and DAB's scale of x (None elsewhere).

        index (N,) is the time group of each sample.
        """

    @abstractmethod
    def bounds(self, x: Tensor, index: Tensor | None = None) -> Cut:
        """What `forward` compares x with."""

    def extra_repr(self) -> str:
        """Sizes, for print(model)."""
        groups = f", groups={self.groups}" if self.groups > 1 else ""
        return f"{self.channels}{groups}"


def working(x: Tensor) -> torch.dtype:
    """The type of signs: that of autocast where it is on (signs are exact in any), else float32."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def picked(table: Tensor, index: Tensor | None) -> Tensor:
    """The rows of a table (K, C): (C,) where there is one, else (N, C)."""
    if table.shape[0] == 1:
        return table[0]
    if index is None:
        raise UsageError("a time-aware block needs a clock: give binary_block(..., clock=...)")
    return rows_of(table, index if is_traced() else index.to(table.device))


class _Static(Threshold):
    def forward(
        self, x: Tensor, index: Tensor | None = None, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Sign(gain x + bias)."""
        shift = along(picked(self.bias, index), x.dim(), self.axis)
        dtype = working(x)
        return self.sign(x if seen is None else seen, shift, self._gain(x), dtype), None

    def bounds(self, x: Tensor, index: Tensor | None = None) -> Cut:
        """The table's row, whatever x is."""
        return Cut(picked(self.table(), index), None)


class RSign(_Static):
    """Sign(x + b), b learnable for each input channel, 0 at first.

    Shapes: x (N, C, ...) or (..., C). Source: ReActNet (ECCV 2020), section 4.2.
    """

    def __init__(self, channels: int, surrogate: str = "approx", axis: int = PICTURES) -> None:
        super().__init__(channels, 1, surrogate, axis)


class TaR(_Static):
    """Sign(x + b_g) with a table of biases, the row chosen by the time group of each sample.

    Source: BI-DiffSR (NeurIPS 2024), section 3.4. Differs: the row is gathered for each sample,
    where the released code reads the timestep of the first one.
    """

    def __init__(
        self, channels: int, groups: int, surrogate: str = "approx", axis: int = PICTURES
    ) -> None:
        super().__init__(channels, groups, surrogate, axis)


class PlainSign(_Static):
    """Sign(x): a threshold of 0 that is not learnt."""

    def __init__(self, channels: int, surrogate: str = "ste", axis: int = PICTURES) -> None:
        super().__init__(channels, 1, surrogate, axis)
        self.bias.requires_grad_(False)


class DAB(Threshold):
    """Threshold and scale of each sample from the activation itself.

    With z = gain x, m the mean of z over a channel: beta = k m + b; s = z - beta;
    alpha = exp(a (mean |s| - 1)); x becomes alpha Sign(s). Statistics carry no gradient.
    mode: `channel` is the published form, one alpha for each input channel, which stands inside the
    sum over channels where no popcount can reach it. `group` shares a and the mean |s| within each
    word of 32 channels, `tensor` within the sample: those leave the sum. `none`: alpha = 1.
    Shapes: x (N, C, H, W). Source: BiDense (arXiv 2411.10346) and its code. Differs: the exponent
    of the shared modes stays within [-8, 8]; tables for time groups; Sign(0) = +1.
    """

    def __init__(
        self, channels: int, groups: int = 1, mode: str = "tensor", surrogate: str = "approx",
        axis: int = PICTURES,
    ) -> None:  # fmt: skip
        super().__init__(channels, groups, surrogate, axis)
        if mode not in MODES:
            raise UsageError(f"the scale of DAB is one of {', '.join(MODES)}, not {mode!r}")
        self.mode = mode
        self.slope = nn.Parameter(torch.randn(groups, channels) * 1e-3)
        words = {"none": 0, "tensor": 1, "group": -(-channels // WORD), "channel": channels}[mode]
        self.exponent = nn.Parameter(torch.randn(groups, words) * 1e-3)

    def tables(self, index: Tensor | None) -> DabTables:
        """Everything that `dab_bounds` reads, for each sample or for all."""
        return DabTables(
            picked(self.slope, index), picked(self.bias, index),
            picked(self.exponent, index) if self.mode != "none" else None,
            self.gain, self.mode,
        )  # fmt: skip

    def bounds(self, x: Tensor, index: Tensor | None = None) -> Cut:
        """theta (N, C) and alpha (N, words) of this x."""
        return Cut(*dab_bounds(over_places(x.detach(), self.axis), self.tables(index)))

    def forward(
        self, x: Tensor, index: Tensor | None = None, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Signs, and alpha as `bounds` has it; slope, bias and exponent learn."""
        places, tables = over_places(x.detach(), self.axis), self.tables(index)
        rough = self.training and native.kernels() is None
        mean = dab_means(places, rough) * self.gain
        beta = tables.slope * mean + tables.bias
        scale = None
        if tables.exponent is not None:
            theta = beta.detach() / self.gain
            apart = dab_means(places, rough, theta) * self.gain
            power = bounded(tables.exponent * (words_mean(apart, self.mode) - 1), self.mode)
            scale = torch.exp(power.double()).float()
        shift = along(-beta, x.dim(), self.axis)
        return self.sign(x if seen is None else seen, shift, self._gain(x), working(x)), scale
