"""The files that fuzz_onnx.cc begins with: one for each operator and its forms, all small.

    python tests/fuzz/onnx_corpus.py       # writes tests/fuzz/onnx

Weights are made ready once, so most of what a file can get wrong is in its attributes and
initialisers. Free sizes are called by a size that fits ("d33"), which the fuzzer reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitcompress.packed.stored import pack

FOLDER = Path(__file__).parent / "onnx"


@dataclass(frozen=True)
class Case:
    """A node: its inputs in order (None where one is left out), how many of the first are free."""

    operator: str
    free: int
    inputs: Sequence[Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    fed_last: int = 0
    """How many of the last inputs are free too."""


def reals(*shape: int) -> Any:
    """Numbers in [-1, 1], the same on every machine."""
    count = int(np.prod(shape))
    return (np.arange(count) * 37 % 101 / 50.5 - 1).astype(np.float32).reshape(shape)


def _layer(shape: Sequence[int], bits: tuple[int, int], channels: int) -> list[Any]:
    """Weight, its grid, the grid of inputs, bias, stretch and shift."""
    codes = np.arange(int(np.prod(shape))) * 89 % (1 << bits[0])
    scale = (np.abs(reals(shape[0])) + 0.1).astype(np.float16)
    top = (1 << bits[1]) - 1
    return [
        pack(torch.from_numpy(codes.astype(np.uint8)), bits[0]).numpy(), scale, -scale,
        np.array([2 / top], np.float16), np.array([-1], np.float16), reals(shape[0]),
        np.abs(reals(channels)) + 0.5, reals(channels),
    ]  # fmt: skip


def _grid(bits: int, count: int = 1) -> list[Any]:
    return [np.full(count, 2 / ((1 << bits) - 1), np.float32), np.full(count, -1, np.float32)]


def _linear(bits: tuple[int, int], free: Sequence[Any] = (), **more: Any) -> Case:
    attributes = {"weight_shape": [5, 9], "weight_bits": bits[0], "input_bits": bits[1], **more}
    inputs = [reals(3, 9), *_layer((5, 9), bits, 9), *free]
    return Case("BitLinear", 1, inputs, attributes, len(free))


def _conv(
    shape: Sequence[int], bits: tuple[int, int], *, last: int = 0, free: Sequence[Any] = (),
    **more: Any,
) -> Case:  # fmt: skip
    channels = shape[1] * more.get("group", 1)
    x = reals(1, 6, 7, channels) if last else reals(1, channels, 6, 7)
    attributes = {
        "weight_shape": list(shape), "weight_bits": bits[0], "input_bits": bits[1],
        "x_last": last, "y_last": last, **more,
    }  # fmt: skip
    inputs = [x, *_layer(shape, bits, channels), *free]
    return Case("BitConv2d", 1, inputs, attributes, len(free))


def _products() -> Iterator[tuple[str, Case]]:
    for name, turned in (("matmul", 0), ("matmul-turned", 1)):
        b = reals(2, 5, 9) if turned else reals(2, 9, 5)
        rules = {"bits": [4, 2], "per_length": [1, 0], "shortest": [0, 3], "per_row": turned}
        inputs = [reals(2, 3, 9), b, *_grid(4, 2), *_grid(2)]
        yield name, Case("BitMatMul", 2, inputs, {**rules, "turned": turned})
    operands = [reals(4, 3, 9), reals(4, 9, 6), reals(4, 6, 5)]
    rules = {"bits": [4, 4, 4, 4], "per_length": [0, 0, 0, 0], "shortest": [0, 0, 0, 0]}
    terms = [reals(2, 3, 6), reals(2, 1, 6)]
    inputs = [*operands, *_grid(4), *_grid(4, 4), *_grid(4), *_grid(4), *terms]
    more = {"multiplies": [0, 1], "repeats": [1, 2], "factor": 0.5, "per_row": 1}
    yield "attention", Case("BitAttention", 3, inputs, {**rules, **more}, 2)


def _codes() -> Iterator[tuple[str, Case]]:
    """Operators that give codes: their kin, and by what is cut in the last two ports."""
    linear, conv = _linear((2, 2)), _conv((4, 3, 3, 3), (2, 2), last=1, pads=[1, 1])
    for name, case, channels in (("linear", linear, 5), ("conv", conv, 4)):
        grid = [np.abs(reals(channels)) + 0.1, reals(channels)]
        inputs = [*case.inputs, *[None] * (15 - len(case.inputs)), *grid]
        more = {**case.attributes, "out_bits": [1, 2, 3, 8, 4][:channels]}
        yield f"{name}-codes", Case(f"{case.operator}Codes", 1, inputs, more)


def _windows() -> Iterator[tuple[str, Case]]:
    tokens = reals(2, 4, 6, 14)  # windows of 2 x 3, two heads of 2 and 3 channels
    terms = [reals(2, 6, 6), reals(4, 1, 6), np.zeros((1, 6, 6), np.float32)]
    rules = {"bits": [4, 4, 4, 4], "per_length": [0, 0, 0, 0], "shortest": [0, 0, 9, 0]}
    more = {"multiplies": [0, 1, 0], "repeats": [1, 2, 1], "factor": 0.5, "per_row": 1}
    where = {"window": [2, 3], "shift": [1, 2], "heads": 2, "widths": [2, 3], "firsts": [0, 4, 8]}
    grids = [*_grid(4), *_grid(4, 2), *_grid(4), *_grid(4)]
    inputs = [tokens, tokens, tokens, *grids]
    attributes = {**rules, **more, **where}
    yield "windows", Case("BitWindows", 3, [*inputs, *terms], attributes, 3)
    plain = {**rules, **where, "out_bits": [2]}
    outs = [*[None] * 4, *_grid(2, 6)]
    yield "windows-codes", Case("BitWindowsCodes", 3, [*inputs, *outs], plain)


def _reals() -> Iterator[tuple[str, Case]]:
    x, picture, parts = reals(2, 3, 8), reals(2, 4, 3, 5), [reals(4).astype(np.float16), reals(4)]
    yield "layer-norm", Case("LayerNorm", 1, [x, reals(8), reals(8)], {"eps": 1e-5})
    yield "gelu", Case("BitGelu", 1, [x], {"tanh": 1})
    yield "sigmoid", Case("BitSigmoid", 1, [x])
    yield "silu", Case("Silu", 1, [x])
    yield "unit", Case("Unit", 1, [x], {"axis": 1, "least": 1e-12})
    yield "pixel-mean", Case("PixelMean", 2, [picture, reals(2, 4)], {"x_last": 0})
    attributes = {"groups": 2, "eps": 1e-5}
    yield "group-norm", Case("GroupNorm", 1, [picture, *parts], {**attributes, "x_last": 0})
    last = np.ascontiguousarray(np.moveaxis(picture, 1, -1))
    yield "group-norm-last", Case("GroupNorm", 1, [last, *parts], {**attributes, "x_last": 1})


def cases() -> dict[str, Case]:
    """All of them by name."""
    from bitcompress.packed.steps import NUMBERS

    norm, gelu, add, prelu = (NUMBERS[kind] for kind in ("norm", "gelu", "add", "prelu"))
    made = {
        "linear": _linear((2, 2)),
        "linear-signs": _linear((1, 1)),
        "linear-steps": _linear(
            (3, 8), [reals(9), reals(9), reals(3, 5), reals(5)], head=[norm],
            tail=[gelu, add, prelu], eps=1e-5,
        ),
        "conv": _conv((4, 3, 3, 3), (2, 2), pads=[1, 1]),
        "conv-signs": _conv((4, 3, 3, 3), (1, 1), pads=[1, 1], strides=[2, 1]),
        "conv-depthwise": _conv((4, 1, 3, 3), (4, 4), group=4, dilations=[2, 1], pads=[2, 0]),
        "conv-last": _conv(
            (4, 3, 1, 1), (2, 4), last=1, free=[reals(1, 6, 7, 3), reals(4)], head=[add], tail=[add]
        ),
    }  # fmt: skip
    return {**made, **dict(_products()), **dict(_codes()), **dict(_windows()), **dict(_reals())}


def file_of(case: Case) -> bytes:
    """An ONNX file of the node alone."""
    from onnx import TensorProto, helper, numpy_helper

    from bitcompress.backends import schema

    names = ["" if value is None else f"i{k}" for k, value in enumerate(case.inputs)]
    free = [*range(case.free), *range(len(names) - case.fed_last, len(names))]
    known = [
        numpy_helper.from_array(value, names[k])
        for k, value in enumerate(case.inputs)
        if value is not None and k not in free
    ]
    values = [
        helper.make_tensor_value_info(
            names[k], TensorProto.FLOAT, [f"d{size}" for size in case.inputs[k].shape]
        )
        for k in free
    ]
    node = helper.make_node(case.operator, names, ["y"], domain=schema.DOMAIN, **case.attributes)
    codes = schema.OPERATORS[case.operator].codes
    made = TensorProto.UINT8 if codes else TensorProto.FLOAT
    out = helper.make_tensor_value_info("y", made, None)
    graph = helper.make_graph([node], "g", values, [out], known)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(schema.DOMAIN, schema.VERSION)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return bytes(model.SerializeToString(deterministic=True))


def main() -> None:
    """The command."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.onnx"):
        path.unlink()
    for name, case in cases().items():
        (FOLDER / f"{name}.onnx").write_bytes(file_of(case))


if __name__ == "__main__":
    main()
