"""How torch's opaque nodes are spelt in a file: one translation each, by the table of schema.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bitcompress.backends import (
    gathered,  # noqa: F401  (makes the nodes known)
    opaque,  # noqa: F401  (likewise)
    schema,
)
from bitcompress.backends.words import WORDS
from bitcompress.packed.dab import WORD


def _changes(value: Any) -> bool:
    """Whether a value follows from an input of the model; parameters have other names."""
    waiting, seen = [value], {value}
    while waiting:
        part = waiting.pop()
        made = part.producer()
        if made is None and part.name.startswith("inputs"):
            return True
        more = {value for value in (made.inputs if made else ()) if value is not None} - seen
        seen |= more
        waiting.extend(more)
    return False


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table that torch.onnx.export takes; registers the schemas with onnx."""
    import onnx_ir as ir
    from onnxscript.values import Opset

    schema.register()
    op, standard = Opset(schema.DOMAIN, schema.VERSION), Opset("", 20)

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

    def binary_conv2d(
        x: Any, theta: Any, words: Any, weight: Any, shape: Sequence[int], scale: Any,
        stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
        pad_value: int,
    ) -> Any:  # fmt: skip
        pads, cut = list(padding), (None, None)
        if words is None and pad_value == 0 and not _changes(theta):
            # A step: stretch 0 makes the scale of the cut 0.
            zeros = np.zeros(int(theta.shape[1]), np.float32)
            flat = standard.Reshape(theta, [int(theta.shape[1])])
            cut = (standard.Constant(value=ir.tensor(zeros)), flat)
        else:  # signs, which the grid of +1 and -1 reads back
            flat = standard.Unsqueeze(theta, [2, 3])
            x = standard.Where(standard.GreaterOrEqual(x, flat), 1.0, -1.0)
            if pad_value and any(pads):
                border = [0, 0, *pads, 0, 0, *pads]
                x, pads = standard.Pad(x, border, 1.0 if pad_value > 0 else -1.0), [0, 0]

        def sums(x: Any, shape: Sequence[int], scale: Any) -> Any:
            two, low = (
                standard.Constant(value=ir.tensor(np.array([v], np.float32))) for v in (2, -1)
            )
            return op.BitConv2d(
                x, weight, standard.Mul(scale, two), standard.Neg(scale), two, low, None, *cut,
                weight_shape=list(shape), weight_bits=1, input_bits=1, strides=list(stride),
                pads=pads, dilations=list(dilation), group=groups,
            )  # fmt: skip

        return sums(x, shape, scale) if words is None else by_word(x, words, shape, scale, sums)

    def by_word(x: Any, words: Any, shape: Sequence[int], scale: Any, sums: Any) -> Any:
        """Words of 32 channels, each with its own factor, from left to right."""
        one = standard.Constant(value=ir.tensor(np.ones(1, np.float32)))
        total = None
        for number, first in enumerate(range(0, shape[1], WORD)):
            last = min(first + WORD, shape[1])
            part = standard.Slice(x, [first], [last], [1])
            z = sums(part, [shape[0], last - first, *shape[2:]], one)
            z.producer().metadata_props[WORDS] = json.dumps([number, *shape])
            factor = standard.Unsqueeze(standard.Gather(words, [number], axis=1), [2, 3])
            z = standard.Mul(z, factor)
            total = z if total is None else standard.Add(total, z)
        return standard.Mul(total, standard.Reshape(scale, [1, -1, 1, 1]))

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

    def windows(
        q: Any, k: Any, v: Any, grids: Sequence[Any], bits: Sequence[int], per_row: bool,
        per_length: Sequence[int], shortest: Sequence[int], terms: Sequence[Any],
        multiplies: Sequence[int], repeats: Sequence[int], window: Sequence[int],
        shift: Sequence[int], heads: int, widths: Sequence[int], firsts: Sequence[int],
        factor: float,
    ) -> Any:  # fmt: skip
        return op.BitWindows(
            q, k, v, *grids, *terms, bits=list(bits), per_row=int(per_row),
            per_length=list(per_length), shortest=list(shortest), multiplies=list(multiplies),
            repeats=list(repeats), window=list(window), shift=list(shift), heads=heads,
            widths=list(widths), firsts=list(firsts), factor=float(factor),
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

    def group_norm(x: Any, groups: int, gain: Any, shift: Any, eps: float) -> Any:
        return op.GroupNorm(x, gain, shift, groups=groups, eps=eps)

    def pixel_mean(x: Any, centre: Any) -> Any:
        return op.PixelMean(x, centre)

    def index_select(x: Any, dim: int, index: Any) -> Any:
        return standard.Gather(x, index, axis=dim)

    made = (
        linear,
        conv2d,
        binary_conv2d,
        product,
        attention,
        windows,
        layer_norm,
        gelu,
        sigmoid,
        silu,
        unit,
        group_norm,
        pixel_mean,
    )
    domain = torch.ops.bitcompress
    table = {getattr(domain, function.__name__).default: function for function in made}
    return {**table, torch.ops.aten.index_select.default: index_select}
