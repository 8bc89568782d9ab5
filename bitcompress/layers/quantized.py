"""Trainable layers whose weights and inputs are moved onto grids, and how they become packed.

Each is built from a float layer, keeps its parameters, and gives its packed twin when its bounds
are final. With quantizers switched off it computes exactly what the float layer computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.layers.geometry import ConvGeometry, pad_for
from bitcompress.layers.packed import PackedConv2d, PackedLinear, PackedMatmul
from bitcompress.packed import ops
from bitcompress.packed.attention import Term, attend_by_parts
from bitcompress.packed.rows import Rows, largest_of, rows_of
from bitcompress.packed.stored import PackedTensor
from bitcompress.quant.spec import Codes, QuantSpec
from bitcompress.quant.uniform import UniformQuantizer


@dataclass(frozen=True)
class Widths:
    """Bits and granularity of one layer.

    weight_axis 0: a grid an output channel; None: one grid. heads: a grid a head for attention.
    """

    weight_bits: int
    act_bits: int
    weight_axis: int | None = 0


class _QuantWeighted(nn.Module):
    """What QuantLinear and QuantConv2d share: weight, both quantizers, equalised input channels.

    `stretch` and `shift` (one number an input channel) normalise the channels before they meet the
    shared grid: x_k = shift_k + stretch_k z_k. The weight is quantized as the weight of z, so the
    stretch leaves the sum; what the shift adds is a constant of the output, in the bias. The packed
    twin cuts x on the grid of its channel and computes on the same integers.
    """

    stretch: Tensor | None
    shift: Tensor | None
    exact = False
    """Whether forward works in float64 on what the codes stand for: the packed twin's own numbers,
    found without integers. Training does not."""

    def __init__(self, weight: Tensor, bias: Tensor | None, widths: Widths) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        groups = weight.shape[0] if widths.weight_axis == 0 else 1
        self.weight_quantizer = UniformQuantizer(
            QuantSpec(widths.weight_bits, widths.weight_axis), groups
        )
        self.input_quantizer = UniformQuantizer(QuantSpec(widths.act_bits))
        self.register_buffer("stretch", None)
        self.register_buffer("shift", None)

    @property
    def channel_axis(self) -> int:
        """Which axis of the input holds the channels."""
        return -1 if self.weight.dim() == 2 else 1

    def normalised(self, x: Tensor) -> Tensor:
        """z, what the shared grid sees."""
        if self.stretch is None:
            return x
        unbatched = self.channel_axis == 1 and x.dim() == 3
        view = [1] * x.dim()
        view[0 if unbatched else self.channel_axis] = -1
        z = x / self.stretch.view(view)
        return z if self.shift is None else z - (self.shift / self.stretch).view(view)

    def stretched_weight(self) -> Tensor:
        """The weight of z: what is quantized and stored."""
        if self.stretch is None:
            return self.weight
        return self.weight * _per_input(self.stretch, self.weight)

    def _on_grids(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Input and weight as real numbers on their grids, the shift taken off the input."""
        if self.stretch is None:
            return self.input_quantizer(x), self.weight_quantizer(self.weight)
        shift = torch.zeros_like(self.stretch) if self.shift is None else self.shift
        on_grid = self.input_quantizer.along(x, self.stretch, shift, self.channel_axis)
        if self.shift is not None:
            on_grid = on_grid - self.shift
        weight = self.weight_quantizer(self.stretched_weight())
        return on_grid, weight / _per_input(self.stretch, self.weight)

    def _exactly(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z and its weight as float64 real numbers: what the codes stand for, without rounding."""
        scale, offset = self.input_quantizer.grid()
        grid = ops.channel_grid(scale, offset, self.stretch, self.shift)
        last = x if self.channel_axis == -1 else x.movedim(1, -1)
        codes = ops.encode(last, *grid, self.input_quantizer.spec.bits)
        z = codes.double() * scale.double() + offset.double()
        weight = self.weight_quantizer.encode(self.stretched_weight())
        real = weight.values.double() * weight.scale.double() + weight.offset.double()
        if self.channel_axis == -1:
            return z, real
        # In the order in memory of x, as the packed twin gives it: what follows may round by it.
        order = ops.memory_format_like(x)
        return z.movedim(-1, 1).contiguous(memory_format=order), real

    def full_bias(self) -> Tensor | None:
        """The bias with what the shift of the input adds, by the float weight."""
        if self.shift is None:
            return self.bias
        extra = self.weight @ self.shift
        return extra if self.bias is None else self.bias + extra

    def _packed_weight(self) -> PackedTensor:
        return PackedTensor.pack(self.weight_quantizer.encode(self.stretched_weight().detach()))


def _linear_exactly(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(z, weight, None if bias is None else bias.double())


def _per_input(values: Tensor, weight: Tensor) -> Tensor:
    """One number an input channel, shaped against a weight whose groups share the channels out."""
    if weight.dim() == 2:
        return values
    groups = values.numel() // weight.shape[1]
    rows = values.view(groups, 1, weight.shape[1], 1, 1)
    return rows.expand(-1, weight.shape[0] // groups, -1, -1, -1).reshape(
        weight.shape[0], weight.shape[1], 1, 1
    )


class QuantLinear(_QuantWeighted):
    """Linear with weight and input on grids.

    Shapes: x (..., K). Returns: (..., N).
    """

    def forward(self, x: Tensor) -> Tensor:
        """The linear map of both on their grids."""
        if self.exact:
            return _linear_exactly(*self._exactly(x), self.full_bias()).to(x.dtype)
        on_grid, weight = self._on_grids(x)
        return F.linear(on_grid, weight, self.full_bias())

    def pack(self) -> PackedLinear:
        """The twin that stores and multiplies codes."""
        scale, offset = self.input_quantizer.grid()
        bits = self.input_quantizer.spec.bits
        return PackedLinear(
            self._packed_weight(), self.full_bias(), scale, offset, bits, self.stretch, self.shift
        )


class QuantConv2d(_QuantWeighted):
    """Convolution with weight and input on grids; padding of mode `zeros` is a true zero.

    Its channels are stretched but never shifted: a shift would not be a constant at the border.
    Shapes: x (N, C, H, W) or (C, H, W), rows alone for a geometry of lines. Returns: likewise with
    O channels.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        geometry: ConvGeometry,
        widths: Widths,
    ) -> None:
        super().__init__(weight, bias, widths)
        self.geometry = geometry

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of both on their grids."""
        g, pictures = self.geometry, self.geometry.opened(x)
        if self.exact:
            z, real = self._exactly(pictures)
            bias = None if self.bias is None else self.bias.double()
            z = pad_for(z, g)
            exact = F.conv2d(z, real, bias, g.stride, g.padding, g.dilation, g.groups).to(x.dtype)
            return g.closed(exact, x)
        on_grid, weight = self._on_grids(pictures)
        on_grid = pad_for(on_grid, g)
        y = F.conv2d(on_grid, weight, self.bias, g.stride, g.padding, g.dilation, g.groups)
        return g.closed(y, x)

    def pack(self) -> PackedConv2d:
        """The twin that stores and multiplies codes."""
        scale, offset = self.input_quantizer.grid()
        bits = self.input_quantizer.spec.bits
        return PackedConv2d(
            self._packed_weight(), self.bias, scale, offset, bits, self.geometry, self.stretch
        )


class QuantMatmul(nn.Module):
    """Product of two activations, both on grids: Q K^T, A V, or any other.

    per_row: a holds attention weights, each row cut relative to its largest (packed/rows.py).
    Shapes: a (..., M, K), b (..., K, N). Returns: (..., M, N).
    """

    exact = False

    def __init__(
        self,
        a_bits: int,
        b_bits: int,
        heads: tuple[int, int] = (1, 1),
        per_length: tuple[bool, bool] = (False, False),
        shares: tuple[bool, bool] = (False, False),
        shortest: tuple[int, int] = (0, 0),
        per_row: bool = False,
    ) -> None:
        super().__init__()
        self.per_row = per_row
        self.a_quantizer, self.b_quantizer = (
            UniformQuantizer(
                QuantSpec(bits, -3 if n > 1 else None), n,
                per_length=per_length[i], shares=shares[i], shortest=shortest[i],
            )
            for i, (bits, n) in enumerate(zip((a_bits, b_bits), heads, strict=True))
        )  # fmt: skip

    @property
    def defers(self) -> bool:
        """Whether it may be one half of an attention: where it shows the packed twin's numbers."""
        return self.exact

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, terms: Sequence[Term], qk: nn.Module
    ) -> Tensor | None:
        """What the packed twin computes in one pass, part by part."""
        by_row = self._rows_exactly if self.per_row else None
        return attend_by_parts(q, k, v, terms, qk, self, by_row)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a b with both on their grids."""
        length = int(a.shape[-1])
        if self.exact:
            if self.per_row:
                return self._rows_exactly(rows_of(a.float()), b).to(a.dtype)
            left, right = self.a_quantizer.encode(a, length), self.b_quantizer.encode(b, length)
            return torch.matmul(_real(left), _real(right)).to(a.dtype)
        if self.per_row and self.a_quantizer.enabled:
            return self._by_row(a, self.b_quantizer(b, length))
        return torch.matmul(self.a_quantizer(a, length), self.b_quantizer(b, length))

    def _by_row(self, a: Tensor, values: Tensor) -> Tensor:
        """The product of packed/rows.py; factor and sum of a row are no function of its weights."""
        gain = largest_of(a)
        total = a.detach().sum(-1, keepdim=True)
        mean = values.mean(-2, keepdim=True)
        relative = self.a_quantizer(a / gain)
        return gain * torch.matmul(relative, values - mean) + total * mean

    def _rows_exactly(self, rows: Rows, b: Tensor) -> Tensor:
        """The same in float64 on what the codes stand for."""
        relative = _real(self.a_quantizer.encode(rows.relative))
        values = _real(self.b_quantizer.encode(b))
        mean = values.mean(-2, keepdim=True)
        around = rows.gain.double() * torch.matmul(relative, values - mean)
        return (around + rows.total.double() * mean).float()

    def pack(self) -> PackedMatmul:
        """The twin that multiplies codes."""
        quantizers = (self.a_quantizer, self.b_quantizer)
        grids = [
            tuple(
                part.reshape(-1, 1, 1) if part.numel() > 1 else part.reshape(())
                for part in q.grid()
            )
            for q in quantizers
        ]
        return PackedMatmul(
            (grids[0][0], grids[0][1]),
            (grids[1][0], grids[1][1]),
            (self.a_quantizer.spec.bits, self.b_quantizer.spec.bits),
            (self.a_quantizer.per_length, self.b_quantizer.per_length),
            (self.a_quantizer.shortest, self.b_quantizer.shortest),
            self.per_row,
        )


def _real(codes: Codes) -> Tensor:
    """What codes stand for, in float64: without rounding."""
    return codes.values.double() * codes.scale.double() + codes.offset.double()


class SplitLinear(nn.Module):
    """Several linears on one input, their outputs side by side: q, k, v quantized each by itself.

    Shapes: x (..., K). Returns: (..., sum of N).
    Source: 2DQuant's released model, which cuts qkv into three layers with a grid each.
    """

    def __init__(self, parts: list[QuantLinear] | list[PackedLinear]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of all parts, joined along the last axis."""
        return torch.cat([part(x) for part in self.parts], dim=-1)

    def pack(self) -> SplitLinear:
        """The same with packed parts."""
        return SplitLinear([part.pack() for part in self.parts if isinstance(part, QuantLinear)])


QuantLayer = QuantLinear | QuantConv2d | QuantMatmul | SplitLinear
QUANT_LAYERS = (QuantLinear, QuantConv2d, QuantMatmul, SplitLinear)
