"""Inference twins: codes in stored form, executed by the packed operators, never as floats."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bitcompress import native
from bitcompress.errors import UsageError
from bitcompress.layers.geometry import ConvGeometry, pad_for
from bitcompress.packed import ops
from bitcompress.packed.attention import LengthRule, ProductGrids, Term, attend, multiply
from bitcompress.packed.layer import Weights, native_layer, run_conv2d, run_linear
from bitcompress.packed.stored import PackedTensor, unpack
from bitcompress.packed.tape import noted
from bitcompress.quant.length import length_factor


class _PackedWeight(nn.Module):
    """What PackedLinear and PackedConv2d hold: weight codes, their reading, the input's grid.

    The codes are the buffer `weight` of the state dict and the attribute `codes`. The scale is a
    parameter: models ask their first one what type and device they compute in.
    """

    weight_scale: nn.Parameter
    weight_offset: Tensor
    input_scale: Tensor
    input_offset: Tensor
    bias: Tensor | None
    stretch: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        weight: PackedTensor,
        bias: Tensor | None,
        input_scale: Tensor,
        input_offset: Tensor,
        input_bits: int,
        stretch: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.weight_shape, self.weight_bits = weight.shape, weight.bits
        self.input_bits = input_bits
        self._buffers["weight"] = weight.data
        self.weight_scale = nn.Parameter(weight.scale.detach(), requires_grad=False)
        self.register_buffer("weight_offset", weight.offset)
        self.register_buffer("input_scale", input_scale.detach().reshape(1).clone())
        self.register_buffer("input_offset", input_offset.detach().reshape(1).clone())
        for name, value in (("bias", bias), ("stretch", stretch), ("shift", shift)):
            self.register_buffer(name, None if value is None else value.detach().clone())

    @property
    def codes(self) -> Tensor:
        """The weight in stored form, bytes."""
        codes = self._buffers["weight"]
        assert codes is not None
        return codes

    @property
    def weight(self) -> Tensor:
        """Type, place and shape of the float weight, for model code that asks for them.

        Its numbers are NaN: only codes are kept, and a use of them must not pass unseen.
        """
        geometry: ConvGeometry | None = getattr(self, "geometry", None)
        shape = geometry.float_shape(self.weight_shape) if geometry else self.weight_shape
        return self.weight_scale.new_full((), float("nan")).expand(shape)

    def extra_repr(self) -> str:
        """Shape and widths, for print(model)."""
        return f"{self.weight_shape}, W{self.weight_bits}A{self.input_bits}"


class PackedLinear(_PackedWeight):
    """Linear on codes.

    Shapes: x (..., K). Returns: (..., N).
    """

    def forward(self, x: Tensor) -> Tensor:
        """bitcompress::linear, or straight through the native layer."""
        with torch._C.DisableTorchFunction():  # no function mode looks on at each attribute
            if type(x) is Tensor and x.shape[-1] == self.weight_shape[1]:
                layer = native_layer(self, x, self._weights)
                if layer is not None:
                    outputs = self.weight_shape[0]
                    return noted("linear", self, x, lambda: run_linear(layer, x, outputs))
        y: Tensor = ops.linear(
            x, self.codes, self.weight_shape, self.weight_scale, self.weight_offset, self.bias,
            self.input_scale, self.input_offset, self.stretch, self.shift, self.weight_bits,
            self.input_bits,
        )  # fmt: skip
        return y

    def _weights(self) -> Weights:
        codes = unpack(self.codes, self.weight_bits, self.weight_shape)[:, :, None, None]
        cut = ops.channel_grid(self.input_scale, self.input_offset, self.stretch, self.shift)
        return Weights(
            codes, self.weight_scale, self.weight_offset, self.bias, self.input_scale,
            self.input_offset, *cut, self.input_bits, self.weight_bits,
        )  # fmt: skip


class PackedConv2d(_PackedWeight):
    """Convolution on codes, with true zero padding.

    A shift goes with a stretch of zeros: then channel c is cut into the codes x_c >= shift_c, which
    the input grid reads as two reals.
    Shapes: x (N, C, H, W) or (C, H, W), rows alone for a geometry of lines. Returns: likewise with
    O channels.
    """

    def __init__(
        self,
        weight: PackedTensor,
        bias: Tensor | None,
        input_scale: Tensor,
        input_offset: Tensor,
        input_bits: int,
        geometry: ConvGeometry,
        stretch: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> None:
        if shift is not None and (stretch is None or bool((stretch != 0).any())):
            raise UsageError("a convolution has a shift only where its input is cut by steps")
        super().__init__(weight, bias, input_scale, input_offset, input_bits, stretch, shift)
        self.geometry = geometry

    def forward(self, x: Tensor) -> Tensor:
        """bitcompress::conv2d, or straight through the native layer."""
        g, given = self.geometry, x
        x = pad_for(g.opened(x), g)
        with torch._C.DisableTorchFunction():
            fits = type(x) is Tensor and x.dim() == 4
            if fits and x.shape[1] == self.weight_shape[1] * g.groups:
                layer = native_layer(self, x, self._weights)
                if layer is not None:
                    shape, picture = self.weight_shape, x
                    y = noted("conv2d", self, x, lambda: run_conv2d(
                        layer, picture, shape, g.stride, g.padding, g.dilation
                    ))  # fmt: skip
                    return g.closed(y, given)
        y = ops.conv2d(
            x, self.codes, self.weight_shape,
            self.weight_scale, self.weight_offset, self.bias, self.input_scale, self.input_offset,
            self.stretch, self.shift, self.weight_bits, self.input_bits,
            g.stride, g.padding, g.dilation, g.groups,
        )  # fmt: skip
        return g.closed(y, given)

    def _weights(self) -> Weights:
        g = self.geometry
        cut = ops.channel_grid(self.input_scale, self.input_offset, self.stretch, self.shift)
        return Weights(
            unpack(self.codes, self.weight_bits, self.weight_shape), self.weight_scale,
            self.weight_offset, self.bias, self.input_scale, self.input_offset, *cut,
            self.input_bits, self.weight_bits, g.stride, g.padding, g.dilation, g.groups,
        )  # fmt: skip


class PackedMatmul(nn.Module):
    """Product of two activations on codes.

    Shapes: a (..., M, K), b (..., K, N). Returns: (..., M, N).
    """

    a_scale: Tensor
    a_offset: Tensor
    b_scale: Tensor
    b_offset: Tensor
    defers = True
    """Whether it may run as one half of a fused attention (graph/defer.py)."""

    def __init__(
        self,
        a_grid: tuple[Tensor, Tensor],
        b_grid: tuple[Tensor, Tensor],
        bits: tuple[int, int],
        per_length: tuple[bool, bool],
        shortest: tuple[int, int] = (0, 0),
        per_row: bool = False,
    ) -> None:
        super().__init__()
        self.bits, self.per_length, self.shortest = bits, per_length, shortest
        self.per_row = per_row
        for name, grid in (("a", a_grid), ("b", b_grid)):
            self.register_buffer(f"{name}_scale", grid[0].detach().clone())
            self.register_buffer(f"{name}_offset", grid[1].detach().clone())

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """bitcompress::matmul; leading sizes are broadcast as torch.matmul does."""
        lead = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
            a.shape[:-2], b.shape[:-2]
        )
        a, b = a.expand(*lead, *a.shape[-2:]), b.expand(*lead, *b.shape[-2:])
        return multiply(a, b, self.grids(a.shape[-1]))

    def grids(self, length: int) -> ProductGrids:
        """The grids of both operands for sums of this length."""
        stored = ((self.a_scale, self.a_offset), (self.b_scale, self.b_offset))
        if native.is_traced():
            rule = LengthRule(self.per_length, self.shortest)
            return ProductGrids(*stored, self.bits, self.per_row, rule)
        factors = (
            length_factor(
                length, grid, (1 << self.bits[i]) - 1,
                per_length=self.per_length[i], shortest=self.shortest[i],
            )
            for i, grid in enumerate(stored)
        )  # fmt: skip
        left, right = (
            grid
            if isinstance(factor, float) and factor == 1
            else (grid[0] * factor, grid[1] * factor)
            for grid, factor in zip(stored, factors, strict=True)
        )
        return ProductGrids(left, right, self.bits, self.per_row)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, terms: Sequence[Term], qk: nn.Module
    ) -> Tensor | None:
        """softmax(terms(q k)) v in one pass; None if the first product `qk` is not packed.

        Shapes: q (..., M, K), k (..., K, N), v (..., N, V). Returns: (..., M, V).
        """
        if not isinstance(qk, PackedMatmul):
            return None
        return attend(q, k, v, terms, qk.grids(q.shape[-1]), self.grids(v.shape[-2]))

    def extra_repr(self) -> str:
        """Widths, for print(model)."""
        return f"A{self.bits[0]} x A{self.bits[1]}"
