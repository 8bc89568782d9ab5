"""How torch's opaque nodes are spelt in a file: one translation each, by the table of schema.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bitcompress.backends import (
    opaque,  # noqa: F401  (makes the nodes known)
    schema,
)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table that torch.onnx.export takes; registers the schemas with onnx."""
    from onnxscript.values import Opset

    schema.register()
    op = Opset(schema.DOMAIN, schema.VERSION)

    def linear(
        x: Any, weight: Any, shape: Sequence[int], w_scale: Any, w_offset: Any, bias: Any,
        x_scale: Any, x_offset: Any, stretch: Any, shift: Any, w_bits: int, x_bits: int,
    ) -> Any:  # fmt: skip
        return op.BitLinear(
            x, weight, w_scale, w_offset, x_scale, x_offset, bias, stretch, shift,
            weight_shape=list(shape), weight_bits=w_bits, input_bits=x_bits,
        )  # fmt: skip

    def conv2d(
        x: Any, weight: Any, shape: Sequence[int], w_scale: Any, w_offset: Any, bias: Any,
        x_scale: Any, x_offset: Any, stretch: Any, shift: Any, w_bits: int, x_bits: int,
        stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
    ) -> Any:  # fmt: skip
        return op.BitConv2d(
            x, weight, w_scale, w_offset, x_scale, x_offset, bias, stretch, shift,
            weight_shape=list(shape), weight_bits=w_bits, input_bits=x_bits, strides=list(stride),
            pads=list(padding), dilations=list(dilation), group=groups,
        )  # fmt: skip

    def product(
        a: Any, b: Any, grids: Sequence[Any], bits: Sequence[int], per_row: bool,
        per_length: Sequence[int], shortest: Sequence[int],
    ) -> Any:  # fmt: skip
        return op.BitMatMul(
            a, b, *grids, bits=list(bits), per_row=int(per_row), per_length=list(per_length),
            shortest=list(shortest),
        )  # fmt: skip

    def attention(
        q: Any, k: Any, v: Any, grids: Sequence[Any], bits: Sequence[int], per_row: bool,
        per_length: Sequence[int], shortest: Sequence[int], terms: Sequence[Any],
        multiplies: Sequence[int], repeats: Sequence[int],
    ) -> Any:  # fmt: skip
        return op.BitAttention(
            q, k, v, *grids, *terms, bits=list(bits), per_row=int(per_row),
            per_length=list(per_length), shortest=list(shortest), multiplies=list(multiplies),
            repeats=list(repeats),
        )  # fmt: skip

    def layer_norm(x: Any, gain: Any, shift: Any, eps: float) -> Any:
        return op.LayerNorm(x, gain, shift, eps=eps)

    def gelu(x: Any, tanh: bool) -> Any:
        return op.BitGelu(x, tanh=int(tanh))

    def sigmoid(x: Any) -> Any:
        return op.BitSigmoid(x)

    def silu(x: Any) -> Any:
        return op.Silu(x)

    def unit(x: Any, axis: int, least: float) -> Any:
        return op.Unit(x, axis=axis, least=least)

    made = (linear, conv2d, product, attention, layer_norm, gelu, sigmoid, silu, unit)
    domain = torch.ops.bitcompress
    return {getattr(domain, function.__name__).default: function for function in made}
