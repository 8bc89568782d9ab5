"""What each operator of a file means, by packed/: the truth of the gate.

Nodes are taken as onnx has them: inputs in the order of the schema, attributes by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitcompress.backends import gathered, opaque
from bitcompress.backends.schema import OPERATORS
from bitcompress.packed import ops, steps
from bitcompress.packed.gathered import OutGrid
from bitcompress.quant.spec import codes_of

KINDS = {number: kind for kind, number in steps.NUMBERS.items()}
Inputs = Mapping[str, Tensor]
Attributes = Mapping[str, Any]


def evaluate(op_type: str, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    """The output of a node. Shapes: those of the schema; inputs are arrays, or None."""
    named, full = _named(op_type, inputs, attributes)
    return MEANINGS[op_type](named, full)


def codes(op_type: str, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    """The codes into which BitConv2d or BitLinear cut x, after its head."""
    named, full = _named(op_type, inputs, attributes)
    if named["x"].dtype == torch.uint8:
        return named["x"]
    x = steps.apply(_steps(named, full, "head", 0), named["x"])
    grid = ops.channel_grid(
        named["input_scale"], named["input_offset"], named.get("stretch"), named.get("shift")
    )
    first = op_type.startswith("BitConv2d") and not full["x_last"]
    rows = x.permute(0, 2, 3, 1) if first else x
    return ops.encode(rows, *grid, full["input_bits"])


def _named(
    op_type: str, inputs: Sequence[Any], attributes: Attributes
) -> tuple[Inputs, Attributes]:
    operator = OPERATORS[op_type]
    named = {}
    for port, value in zip(operator.inputs, inputs, strict=False):
        if value is not None:
            array = np.asarray(value)
            wide = array.astype(np.float32) if array.dtype == np.float16 else array
            named[port.name] = torch.from_numpy(np.ascontiguousarray(wide).copy()).reshape(
                array.shape
            )
    return named, {a.name: attributes.get(a.name, a.default) for a in operator.attributes}


def _steps(inputs: Inputs, attributes: Attributes, part: str, first: int) -> list[steps.Step]:
    """The steps of the head or the tail; their operands begin at port `operand{first}`."""
    made = []
    for number in attributes[part]:
        kind = KINDS[number]
        if kind == "norm":
            gain, shift = inputs[f"operand{first}"], inputs[f"operand{first + 1}"]
            made.append(steps.Step(kind, gain, shift, attributes["eps"]))
            first += 2
        elif kind in steps.OPERAND:
            made.append(steps.Step(kind, inputs[f"operand{first}"]))
            first += 1
        else:
            made.append(steps.Step(kind))
    return made


def operands_of(kinds: Sequence[int]) -> int:
    """How many operands a chain of steps has."""
    counts = {"norm": 2, **dict.fromkeys(steps.OPERAND, 1)}
    return sum(counts.get(KINDS[number], 0) for number in kinds)


def _weights(inputs: Inputs, attributes: Attributes) -> tuple[Any, ...]:
    return (
        inputs["weight"].reshape(-1), list(attributes["weight_shape"]), inputs["weight_scale"],
        inputs["weight_offset"], inputs.get("bias"), inputs["input_scale"], inputs["input_offset"],
        inputs.get("stretch"), inputs.get("shift"), attributes["weight_bits"],
        attributes["input_bits"],
    )  # fmt: skip


def _out_grid(inputs: Inputs, attributes: Attributes, channels: int) -> tuple[Tensor, ...]:
    """By what an output is cut: scale, offset and the largest code, one or one a channel."""
    bits = torch.tensor(list(attributes["out_bits"])).expand(
        channels if len(attributes["out_bits"]) == 1 else -1
    )
    return inputs["out_scale"], inputs["out_offset"], (2.0**bits - 1)


def _cut(inputs: Inputs, attributes: Attributes, y: Tensor) -> Tensor:
    """The codes of y, channels last."""
    scale, offset, top = _out_grid(inputs, attributes, y.shape[-1])
    levels = [codes_of(y[..., c], *_of(scale, offset, c), int(t)) for c, t in enumerate(top)]
    return torch.stack(levels, -1).to(torch.uint8)


def _of(scale: Tensor, offset: Tensor, channel: int) -> tuple[Tensor, Tensor]:
    at = channel if scale.numel() > 1 else 0
    return scale[at], offset[at]


def _reals(inputs: Inputs, attributes: Attributes) -> Tensor:
    """x after the head; codes of x as the reals that they stand for, whose codes they are."""
    x = inputs["x"]
    if x.dtype != torch.uint8:
        return steps.apply(_steps(inputs, attributes, "head", 0), x)
    grid = ops.channel_grid(
        inputs["input_scale"], inputs["input_offset"], inputs.get("stretch"), inputs.get("shift")
    )
    reals = x.float() * grid[0] + grid[1]
    step = torch.where(x > 0, grid[1], torch.full_like(reals, -torch.inf))
    return torch.where(grid[0] == 0, step, reals)


def _linear(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _reals(inputs, attributes)
    y = ops.linear(x, *_weights(inputs, attributes))
    tail = _steps(inputs, attributes, "tail", operands_of(attributes["head"]))
    return steps.apply(tail, y)


def _conv2d(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = _reals(inputs, attributes)
    x = x.permute(0, 3, 1, 2) if attributes["x_last"] else x
    y = ops.conv2d(
        x, *_weights(inputs, attributes), list(attributes["strides"]),
        list(attributes["pads"]), list(attributes["dilations"]), attributes["group"],
    )  # fmt: skip
    tail = _steps(inputs, attributes, "tail", operands_of(attributes["head"]))
    rows = steps.apply(tail, y.permute(0, 2, 3, 1))
    return rows if attributes["y_last"] else rows.permute(0, 3, 1, 2)


def _grids(inputs: Inputs, names: str) -> list[Tensor]:
    return [inputs[f"{name}_{part}"] for name in names for part in ("scale", "offset")]


def _matmul(inputs: Inputs, attributes: Attributes) -> Tensor:
    b = inputs["b"].transpose(-2, -1) if attributes["turned"] else inputs["b"]
    y: Tensor = opaque.product(
        inputs["a"], b, _grids(inputs, "ab"), list(attributes["bits"]),
        bool(attributes["per_row"]), list(attributes["per_length"]), list(attributes["shortest"]),
    )  # fmt: skip
    return y


def _attention(inputs: Inputs, attributes: Attributes) -> Tensor:
    k = inputs["k"].transpose(-2, -1) if attributes["turned"] else inputs["k"]
    terms = [inputs[f"term{i}"] for i in range(len(attributes["multiplies"]))]
    factor = attributes["factor"]
    q = inputs["q"] if factor == 1.0 else inputs["q"] * factor
    y: Tensor = opaque.attention(
        q, k, inputs["v"], _grids(inputs, "qkpv"), list(attributes["bits"]),
        bool(attributes["per_row"]), list(attributes["per_length"]), list(attributes["shortest"]),
        terms, list(attributes["multiplies"]), list(attributes["repeats"]),
    )  # fmt: skip
    return y


def _windows(inputs: Inputs, attributes: Attributes) -> Tensor:
    terms = [inputs[f"term{i}"] for i in range(len(attributes["multiplies"]))]
    out = None
    if "out_bits" in attributes:
        channels = attributes["heads"] * attributes["widths"][1]
        scale, offset, top = _out_grid(inputs, attributes, channels)
        out = OutGrid(scale, offset, int(top[0]).bit_length())
    return gathered.gathered(
        inputs["q"], inputs["k"], inputs["v"], _grids(inputs, "qkpv"), list(attributes["bits"]),
        bool(attributes["per_row"]), list(attributes["per_length"]), list(attributes["shortest"]),
        terms, list(attributes["multiplies"]), list(attributes["repeats"]),
        list(attributes["window"]), list(attributes["shift"]), attributes["heads"],
        list(attributes["widths"]), list(attributes["firsts"]), attributes["factor"], out,
    )  # fmt: skip


def _pixel_mean(inputs: Inputs, attributes: Attributes) -> Tensor:
    x = inputs["x"].movedim(-1, 1) if attributes["x_last"] else inputs["x"]
    y: Tensor = opaque.pixel_mean_node(x, inputs.get("centre"))
    return y


def _group_norm(inputs: Inputs, attributes: Attributes) -> Tensor:
    last = attributes["x_last"]
    x = inputs["x"].movedim(-1, 1) if last else inputs["x"]
    y: Tensor = opaque.group_norm_node(
        x, attributes["groups"], inputs.get("gain"), inputs.get("shift"),
        float(f"{attributes['eps']:.7g}"),
    )  # fmt: skip
    return y.movedim(1, -1) if last else y


MEANINGS: dict[str, Callable[[Inputs, Attributes], Tensor]] = {
    "BitConv2d": _conv2d,
    "BitConv2dCodes": lambda i, a: _cut(i, a, _conv2d(i, a)),
    "BitLinear": _linear,
    "BitLinearCodes": lambda i, a: _cut(i, a, _linear(i, a)),
    "BitMatMul": _matmul,
    "BitAttention": _attention,
    "BitWindows": _windows,
    "BitWindowsCodes": _windows,
    "LayerNorm": lambda i, a: opaque.norm(i["x"], i.get("gain"), i.get("shift"), a["eps"]),
    "BitGelu": lambda i, a: opaque.gelu_node(i["x"], bool(a["tanh"])),
    "BitSigmoid": lambda i, a: opaque.sigmoid_node(i["x"]),
    "Silu": lambda i, a: opaque.silu_node(i["x"]),
    "Unit": lambda i, a: opaque.unit_node(i["x"], a["axis"], a["least"]),
    "PixelMean": _pixel_mean,
    "GroupNorm": _group_norm,
}
"""One function an operator."""
