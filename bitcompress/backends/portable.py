"""The same graph in standard operators: small in the file, no faster to run, opened by any tool.

Weights are codes of UINT2, UINT4 or UINT8, the narrowest that holds their bits, behind a
DequantizeLinear; inputs of 2, 4 and 8 bits pass through QuantizeLinear and DequantizeLinear, others
through Round and Clip. Grids are affine with a real offset: it stands beside as an Add, and what is
read is what was stored; where a user asks for it, it is nudged to a whole zero point (nudge.py).
Sums are float32, whose rounding may flip a code of the next layer; the gate measures what all of
that costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from bitcompress.backends.nudge import Nudged, Nudges, most_steps, nudge
from bitcompress.backends.portable_writer import OPSET, Writer, unsigned
from bitcompress.backends.schema import DOMAIN
from bitcompress.packed.stored import unpack

LATEST_IR = {21: 10, 25: 13}


def to_standard(model: Any, nudges: Nudges | None = None) -> None:
    """Replace every operator of ours by standard ones (an onnx_ir.Model).

    nudges: counts the offsets that became whole zero points; without it none does.
    """
    graph = model.graph
    narrowest = 8
    for node in list(graph):
        if node.domain != DOMAIN:
            continue
        writer = Writer(node, nudges)
        made = MEANINGS[node.op_type](writer)
        narrowest = min(narrowest, writer.narrowest)
        graph.insert_before(node, writer.nodes)
        for value in writer.constants:
            graph.register_initializer(value)
        name = node.outputs[0].name
        made.type, made.shape = node.outputs[0].type, node.outputs[0].shape
        node.outputs[0].replace_all_uses_with(made, replace_graph_outputs=True)
        node.outputs[0].name, made.name = f"{name}_old", name
        graph.remove(node, safe=True)
    opset = max(OPSET[narrowest], graph.opset_imports.get("", 1))
    graph.opset_imports[""] = opset
    graph.opset_imports.pop(DOMAIN, None)
    model.ir_version = max(LATEST_IR[25 if opset > 21 else 21], model.ir_version)


def _weight(w: Writer) -> Any:
    """The weight as reals, from codes of the narrowest type that holds them."""
    bits, shape = w.attributes["weight_bits"], tuple(w.attributes["weight_shape"])
    stored = np.ascontiguousarray(w.inputs["weight"].const_value.numpy()).reshape(-1)
    codes = unpack(torch.from_numpy(stored.copy()), bits, shape).numpy()
    wide = 2 if bits <= 2 else 4 if bits <= 4 else 8
    w.narrowest = min(w.narrowest, wide)
    kind = unsigned(wide)
    scale, offset = (
        w.known(f"weight_{part}").reshape(-1).astype(np.float32) for part in ("scale", "offset")
    )
    rows = codes.reshape(shape[0] if max(scale.size, offset.size) > 1 else 1, -1)
    counts = np.stack([np.bincount(row, minlength=1 << bits) for row in rows])
    found = None if w.nudges is None else nudge(scale, offset, bits, counts)
    if w.noted(found) and found is not None:
        pair = (found.scale, found.zero)
        first, zero = (part if part.size > 1 else part.reshape(()) for part in pair)
        inputs = w.constant(codes, kind), w.constant(first), w.constant(zero, kind)
        return w.op("DequantizeLinear", *inputs, axis=0)
    first = w.constant(scale if scale.size > 1 else scale.reshape(()))
    reals = w.op("DequantizeLinear", w.constant(codes, kind), first, axis=0)
    view = [-1] + [1] * (len(shape) - 1) if offset.size > 1 else []
    return w.op("Add", reals, w.constant(offset.reshape(view)))


def _cut(w: Writer) -> Any:
    """What a layer multiplies: x cut, and read as the normalised input."""
    scale, offset = (
        w.known(f"input_{part}").astype(np.float32).reshape(()) for part in ("scale", "offset")
    )
    stretch, shift = w.known("stretch"), w.known("shift")
    grid, bits = (scale, offset), w.attributes["input_bits"]
    if w.nudges is not None and bits in OPSET and (stretch is None or (stretch > 0).all()):
        read = nudge(scale, offset, bits)
        cut = None if read is None else _moved_by(read, stretch, shift, bits)
        if w.noted(read, cut) and read is not None and cut is not None:
            return w.by_zero_point(w.inputs["x"], cut, read, bits)
    if stretch is not None:
        wide = stretch.astype(np.float32)
        low = wide * offset
        grid = wide * scale, low if shift is None else low + shift.astype(np.float32)
    return w.quantized(w.inputs["x"], grid, bits, (scale, offset))


def _moved_by(read: Nudged, stretch: Any, shift: Any, bits: int) -> Nudged | None:
    """By what channels are cut that are read by one grid; None where a zero point has no room."""
    if stretch is None:
        return read
    scale = stretch.astype(np.float32) * read.scale
    by = np.zeros_like(scale) if shift is None else shift.astype(np.float32) / scale
    zero = np.rint(read.zero - by)
    far = float(np.abs(zero - (read.zero - by)).max())
    if zero.min() < 0 or zero.max() >= 1 << bits or far > most_steps(bits):
        return None
    return Nudged(scale, zero.astype(np.uint8), far)


def _linear(w: Writer) -> Any:
    y = w.op("MatMul", _cut(w), w.op("Transpose", _weight(w), perm=[1, 0]))
    bias = w.known("bias")
    return y if bias is None else w.op("Add", y, w.constant(bias.astype(np.float32)))


def _conv2d(w: Writer) -> Any:
    bias = w.known("bias")
    inputs = [_cut(w), _weight(w)]
    if bias is not None:
        inputs.append(w.constant(bias.astype(np.float32)))
    a = w.attributes
    return w.op(
        "Conv", *inputs, strides=list(a["strides"]), pads=[*a["pads"], *a["pads"]],
        dilations=list(a["dilations"]), group=a["group"],
    )  # fmt: skip


def _grid(w: Writer, of: str, place: int, length: Any) -> tuple[Any, Any]:
    """The grid of an operand for a length, as values that broadcast against (..., 1, 1)."""
    parts = [
        w.known(f"{of}_{part}").astype(np.float32).reshape(-1, 1, 1) for part in ("scale", "offset")
    ]
    scale, offset = (w.constant(part if part.size > 1 else part.reshape(())) for part in parts)
    if w.attributes["per_length"][place]:
        factor = w.op("Pow", length, w.number(-0.5))
    elif w.attributes["shortest"][place]:
        levels = np.float32((1 << w.attributes["bits"][place]) - 1)
        most = np.maximum(np.float32(1) / np.maximum(parts[1] + parts[0] * levels, 1e-6), 1)
        share = w.op("Div", w.number(w.attributes["shortest"][place]), length)
        factor = w.op("Max", w.number(1.0), w.op("Min", w.constant(most.astype(np.float32)), share))
    else:
        return scale, offset
    return w.op("Mul", scale, factor), w.op("Mul", offset, factor)


def _length(w: Writer, x: Any, axis: int) -> Any:
    """The size of an axis, counted from the last, as float32."""
    size = w.op("Gather", w.op("Shape", x), w.constant(np.array(axis, np.int64)))
    return w.op("Cast", size, to=1)


def _rows(w: Writer, relative: Any, gain: Any, total: Any, v: Any, grids: Any, bits: Any) -> Any:
    """Rows relative to their largest weight times values (packed/rows.py)."""
    (a_scale, a_offset), b_grid = grids
    reals = w.reals(relative, (a_scale, a_offset), bits[0], (a_scale, w.number(0.0)))
    values = w.reals(v, b_grid, bits[1])
    axes = w.constant(np.array([-2], np.int64))
    mean = w.op("ReduceMean", values, axes, keepdims=1)
    y = w.op("Mul", w.op("MatMul", reals, w.op("Sub", values, mean)), gain)
    return w.op("Add", y, mean if total is None else w.op("Mul", total, mean))


def _matmul(w: Writer) -> Any:
    a, b, bits = w.inputs["a"], w.inputs["b"], w.attributes["bits"]
    length = _length(w, a, -1)
    grids = _grid(w, "a", 0, length), _grid(w, "b", 1, length)
    if w.attributes["per_row"]:
        axes = w.constant(np.array([-1], np.int64))
        most = w.op(
            "Max",
            w.op("ReduceMax", a, axes, keepdims=1),
            w.number(float(np.finfo(np.float32).tiny)),
        )
        total = w.op("ReduceSum", a, axes, keepdims=1)
        return _rows(w, w.op("Div", a, most), most, total, b, grids, bits)
    return w.op("MatMul", w.reals(a, grids[0], bits[0]), w.reals(b, grids[1], bits[1]))


def _attention(w: Writer) -> Any:
    q, k, v, bits = w.inputs["q"], w.inputs["k"], w.inputs["v"], w.attributes["bits"]
    depth, keys = _length(w, q, -1), _length(w, v, -2)
    logits = w.op(
        "MatMul", w.reals(q, _grid(w, "q", 0, depth), bits[0]),
        w.reals(k, _grid(w, "k", 1, depth), bits[1]),
    )  # fmt: skip
    logits = _with_terms(w, logits)
    grids = _grid(w, "p", 2, keys), _grid(w, "v", 3, keys)
    if not w.attributes["per_row"]:
        p = w.reals(w.op("Softmax", logits, axis=-1), grids[0], bits[2])
        return w.op("MatMul", p, w.reals(v, grids[1], bits[3]))
    axes = w.constant(np.array([-1], np.int64))
    e = w.op("Exp", w.op("Sub", logits, w.op("ReduceMax", logits, axes, keepdims=1)))
    gain = w.op("Reciprocal", w.op("ReduceSum", e, axes, keepdims=1))
    return _rows(w, e, gain, None, v, grids, bits[2:])


def _with_terms(w: Writer, logits: Any) -> Any:
    """The logits with their terms, each in the view (rest, T, repeat, M, N)."""
    whole = None
    for i, (times, repeat) in enumerate(
        zip(w.attributes["multiplies"], w.attributes["repeats"], strict=True)
    ):
        whole = whole or w.op("Shape", logits)
        term = w.inputs[f"term{i}"]
        tail = w.op("Slice", whole, *(w.constant(np.array([n], np.int64)) for n in (-2, 1 << 40)))
        count = w.op(
            "Slice", w.op("Shape", term), *(w.constant(np.array([n], np.int64)) for n in (0, 1))
        )
        lead = [w.constant(np.array([n], np.int64)) for n in (-1, repeat)]
        view = w.op("Concat", lead[0], count, lead[1], tail, axis=0)
        spread = w.op("Unsqueeze", term, w.constant(np.array([1], np.int64)))
        logits = w.op("Mul" if times else "Add", w.op("Reshape", logits, view), spread)
        logits = w.op("Reshape", logits, whole)
    return logits


def _layer_norm(w: Writer) -> Any:
    gain, shift = w.known("gain"), w.known("shift")
    size = w.node.inputs[0].shape[-1] if gain is None else len(gain)
    ones = np.ones(size, np.float32) if gain is None else gain.astype(np.float32)
    inputs = [w.inputs["x"], w.constant(ones)]
    if shift is not None:
        inputs.append(w.constant(shift.astype(np.float32)))
    return w.op("LayerNormalization", *inputs, epsilon=w.attributes["eps"], axis=-1)


def _pixel_mean(w: Writer) -> Any:
    """Means over all axes behind the channels."""
    x, centre = w.inputs["x"], w.inputs.get("centre")
    rank = len(w.node.inputs[0].shape)
    axes = w.constant(np.arange(2, rank))
    if centre is not None:
        x = w.op("Abs", w.op("Sub", x, w.op("Unsqueeze", centre, axes)))
    return w.op("ReduceMean", x, axes, keepdims=0)


def _group_norm(w: Writer) -> Any:
    gain, shift = w.known("gain"), w.known("shift")
    channels = int(w.node.inputs[0].shape[1])
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    affine = [
        w.constant(other if part is None else part.astype(np.float32))
        for part, other in ((gain, ones), (shift, zeros))
    ]
    return w.op(
        "GroupNormalization", w.inputs["x"], *affine, num_groups=w.attributes["groups"],
        epsilon=w.attributes["eps"],
    )  # fmt: skip


def _unit(w: Writer) -> Any:
    axes = w.constant(np.array([w.attributes["axis"]], np.int64))
    length = w.op("ReduceL2", w.inputs["x"], axes, keepdims=1)
    return w.op("Div", w.inputs["x"], w.op("Max", length, w.number(w.attributes["least"])))


MEANINGS: Mapping[str, Callable[[Writer], Any]] = {
    "BitConv2d": _conv2d,
    "BitLinear": _linear,
    "BitMatMul": _matmul,
    "BitAttention": _attention,
    "LayerNorm": _layer_norm,
    "BitGelu": lambda w: w.op(
        "Gelu", w.inputs["x"], approximate="tanh" if w.attributes["tanh"] else "none"
    ),
    "BitSigmoid": lambda w: w.op("Sigmoid", w.inputs["x"]),
    "Silu": lambda w: w.op("Mul", w.inputs["x"], w.op("Sigmoid", w.inputs["x"])),
    "Unit": _unit,
    "PixelMean": _pixel_mean,
    "GroupNorm": _group_norm,
}
"""One function an operator."""
