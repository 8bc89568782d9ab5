"""The uniform quantizer: 2^b equal steps between two learnable bounds.

The grid is affine with a real offset: both bounds are levels, 0.0 need not be one. Binary is the
case of one bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitcompress.errors import BitcompressError, ShapeError
from bitcompress.quant.length import length_factor
from bitcompress.quant.spec import Bounds, Codes, QuantSpec, round_codes, spread
from bitcompress.quant.ste import fake_quantize


class UniformQuantizer(nn.Module):
    """Moves numbers onto 2^b levels between a lower and an upper bound, one pair a group.

    The bounds are stored in units of `unit` (1 until `rescale` is called), so that one learning
    rate fits a weight of 0.01 and an activation of 10: real lower = lower * unit.
    `per_length` bounds are for operands whose entries shrink as 1/sqrt(K) when the contraction
    length K grows (a row normalised over K): they are multiplied by 1/sqrt(K) at each call. Shares
    of one have wider bounds in sums shorter than all that calibration saw (quant/length.py).

    Shapes: lower, upper, unit (groups,).
    Source: 2DQuant (NeurIPS 2024), section 3.1; `unit` and `per_length` are ours.
    """

    lower: nn.Parameter
    upper: nn.Parameter
    unit: Tensor

    def __init__(
        self,
        spec: QuantSpec,
        groups: int = 1,
        *,
        per_length: bool = False,
        shares: bool = False,
        shortest: int = 0,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.per_length = per_length
        self.shares = shares
        """Whether the operand is made of shares of one: calibration then notes `shortest`."""
        self.shortest = shortest
        self.enabled = True
        self.lower = nn.Parameter(torch.full((groups,), float("nan")))
        self.upper = nn.Parameter(torch.full((groups,), float("nan")))
        self.register_buffer("unit", torch.ones(groups))

    def set_bounds(self, bounds: Bounds) -> None:
        """Take real bounds, found by a search.

        Raises: ShapeError if their number is not the number of groups.
        """
        if bounds.lower.shape != self.lower.shape:
            raise ShapeError(
                f"quantizer has {self.lower.numel()} groups, bounds have {bounds.lower.numel()}"
            )
        safe = spread(bounds)
        with torch.no_grad():
            self.lower.copy_(safe.lower / self.unit)
            self.upper.copy_(safe.upper / self.unit)

    def rescale(self) -> None:
        """Make the present width of each grid its unit, for training with one learning rate."""
        bounds = self.bounds()
        with torch.no_grad():
            self.unit.copy_(bounds.upper - bounds.lower)
        self.set_bounds(bounds)

    @property
    def ready(self) -> bool:
        """Whether bounds have been set."""
        return bool(torch.isfinite(self.lower).all() and torch.isfinite(self.upper).all())

    def bounds(self) -> Bounds:
        """The real bounds, differentiable.

        Raises: BitcompressError before calibration.
        """
        if not self.ready:
            raise BitcompressError("quantizer has no bounds yet: calibrate before running")
        return Bounds(self.lower * self.unit, self.upper * self.unit)

    def grid(self, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Scale and offset of each group, (groups,), for sums of that length; None: as stored."""
        bounds = self._ordered()
        lower = bounds.lower.detach()
        step = ((bounds.upper - bounds.lower) / self.spec.levels).detach()
        factor = self._factor(length, step, lower)
        return (step, lower) if factor is None else (step * factor, lower * factor)

    def _factor(self, length: int | None, step: Tensor, lower: Tensor) -> Tensor | float | None:
        """What the grid is multiplied by for sums of that length; None for nothing."""
        if length is None or (not self.per_length and length >= self.shortest):
            return None
        grid = (step.detach(), lower.detach())
        return length_factor(
            length, grid, self.spec.levels, per_length=self.per_length, shortest=self.shortest
        )

    def _ordered(self) -> Bounds:
        """The real bounds, upper kept a hair above lower so that training never divides by zero."""
        return spread(Bounds(self.lower * self.unit, self.upper * self.unit))

    def forward(self, x: Tensor, length: int | None = None) -> Tensor:
        """x on the grid; gradients reach x and both bounds."""
        if not self.enabled:
            return x
        bounds = self._ordered()
        lower, upper = bounds.lower, bounds.upper
        step = (upper - lower) / self.spec.levels
        factor = self._factor(length, step, lower)
        if factor is None:
            return fake_quantize(x, lower, upper, self.spec.bits, self.spec.axis)
        # The step is scaled, not made anew from scaled bounds: the packed twin scales it too.
        lower, upper = lower * factor, upper * factor
        return fake_quantize(x, lower, upper, self.spec.bits, self.spec.axis, step * factor)

    def along(self, x: Tensor, stretch: Tensor, shift: Tensor, axis: int) -> Tensor:
        """x on a grid that is stretched and shifted for each channel of `axis`.

        Channel k has the levels shift_k + stretch_k (offset + scale * code): one shared grid of
        the normalised channels. Shapes: stretch, shift (C,) with C the size of `axis`.
        """
        if not self.enabled:
            return x
        bounds = self._ordered()
        lower, upper = bounds.lower, bounds.upper
        scale = stretch * ((upper - lower) / self.spec.levels)
        low, high = stretch * lower + shift, stretch * upper + shift
        return fake_quantize(x, low, high, self.spec.bits, axis, scale)

    def encode(self, x: Tensor, length: int | None = None) -> Codes:
        """The same numbers as integers: `encode(x).decode()` equals `forward(x)`."""
        scale, offset = self.grid(length)
        scale = self.spec.view(scale, x.dim())
        offset = self.spec.view(offset, x.dim())
        values = round_codes(x, scale, offset, self.spec.levels).to(torch.uint8)
        return Codes(values, scale, offset, self.spec.bits)

    def extra_repr(self) -> str:
        """Bits and groups, for print(model)."""
        return f"bits={self.spec.bits}, axis={self.spec.axis}, groups={self.lower.numel()}"
