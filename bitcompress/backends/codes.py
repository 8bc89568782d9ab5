"""Between operators of ours numbers stay codes: whoever makes them cuts them for those who read.

That is exact, since a cut is what the reader would do first, and a code takes one byte of memory
where a real takes four.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bitcompress.backends.fuse import add_operands, ints_of, set_attribute
from bitcompress.backends.initializers import initializer
from bitcompress.backends.schema import DOMAIN, OPERATORS
from bitcompress.packed import ops
from bitcompress.packed.steps import NUMBERS

LAYERS = ("BitLinear", "BitConv2d", "BitLinearCodes", "BitConv2dCodes")
MAKERS = ("BitLinear", "BitConv2d", "BitWindows")
WINDOWS = ("BitWindows", "BitWindowsCodes")
PARTS = {"q": 0, "k": 1, "v": 2}


@dataclass(frozen=True)
class Grid:
    """By what a value is cut. Arrays: scale, offset and bits, one or one a channel."""

    scale: Any
    offset: Any
    bits: Any

    def same(self, other: Grid) -> bool:
        """Whether both cut alike."""
        pairs = ((self.scale, other.scale), (self.offset, other.offset), (self.bits, other.bits))
        return all(np.array_equal(a, b) for a, b in pairs)


def hand_codes(model: Any) -> None:
    """Let layers and windows of an onnx_ir.Model give codes where all who read them cut alike."""
    for node in list(model.graph):
        if node.domain != DOMAIN or node.op_type not in MAKERS:
            continue
        if node.op_type == "BitConv2d" and ints_of(node, "y_last") != [1]:
            continue
        out = node.outputs[0]
        uses = list(out.uses())
        if out.is_graph_output() or not uses:
            continue
        if node.op_type == "BitLinear" and _for_windows(node, uses):
            continue
        grids = [_of_layer(user, index) for user, index in uses]
        first = grids[0]
        if first is None or not all(grid is not None and grid.same(first) for grid in grids):
            continue
        if node.op_type == "BitWindows" and len(set(first.bits)) != 1:
            continue
        _give(node, first)


def _array(value: Any) -> Any:
    """The numbers of an initialiser as float32; None for another value."""
    if value is None or not value.is_initializer():
        return None
    return value.const_value.numpy().astype(np.float32)


def _of_layer(user: Any, index: int) -> Grid | None:
    """By what a layer cuts what it reads; None where it needs the reals."""
    if user.domain != DOMAIN or user.op_type not in LAYERS or index != 0 or ints_of(user, "head"):
        return None
    if user.op_type.startswith("BitConv2d") and ints_of(user, "x_last") != [1]:
        return None
    if any(value is user.inputs[0] for value in user.inputs[1:]):
        return None
    parts = [_array(user.inputs[i]) if i < len(user.inputs) else None for i in (4, 5, 7, 8)]
    connected = [i for i in (4, 5, 7, 8) if i < len(user.inputs) and user.inputs[i] is not None]
    if parts[0] is None or parts[1] is None or len(connected) != sum(p is not None for p in parts):
        return None
    tensors: list[Any] = [part if part is None else torch.from_numpy(part) for part in parts]
    scale, offset = ops.channel_grid(*tensors)
    bits = np.array(ints_of(user, "input_bits"))
    return Grid(scale.reshape(-1).numpy(), offset.reshape(-1).numpy(), bits)


def _for_windows(node: Any, uses: list[tuple[Any, int]]) -> bool:
    """A linear whose channels are the queries, keys and values of windows, and nothing else.

    Returns: whether it gives codes now.
    """
    users = list({id(user): user for user, _ in uses}.values())
    if not all(u.domain == DOMAIN and u.op_type in WINDOWS and i < 3 for u, i in uses):
        return False
    channels = ints_of(node, "weight_shape")[0]
    scale, offset = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    bits, factor = np.ones(channels, np.int64), np.ones(channels, np.float32)
    seen = np.zeros(channels, bool)
    for user in users:
        if any(value is not node.outputs[0] for value in user.inputs[:3]):
            return False
        for part, grid in _of_heads(user):
            if grid is None or seen[part].any() or part.stop > channels:
                return False
            seen[part] = True
            scale[part], offset[part], bits[part], factor[part] = grid
    if not seen.all() or not _multiply(node, factor):
        return False
    for user in users:
        set_attribute(user, "factor", 1.0)
    _give(node, Grid(scale, offset, bits))
    return True


def _of_heads(user: Any) -> Any:
    """The channels of each head of windows, and their scale, offset, bits and factor, or None."""
    names = [port.name for port in OPERATORS[user.op_type].inputs]
    heads, widths = ints_of(user, "heads")[0], ints_of(user, "widths")
    rules = (ints_of(user, "per_length"), ints_of(user, "shortest"))
    for part, number in PARTS.items():
        place = number if number < 2 else 3  # of q, k, p and v
        grid = [_array(user.inputs[names.index(f"{part}_{of}")]) for of in ("scale", "offset")]
        width = widths[part == "v"]
        first = ints_of(user, "firsts")[number]
        fixed = all(rule[place] == 0 for rule in rules) and all(g is not None for g in grid)
        times = float(user.attributes["factor"].value) if part == "q" else 1.0
        for head in range(heads):
            at = slice(first + head * width, first + (head + 1) * width)
            if not fixed or any(len(g) not in (1, heads) for g in grid):
                yield at, None
                continue
            scale, offset = (g[head if len(g) > 1 else 0] for g in grid)
            yield at, (scale, offset, ints_of(user, "bits")[place], times)


def _multiply(node: Any, factor: Any) -> bool:
    """Put the factors of channels behind a linear; False where there is no room for them."""
    if (factor == 1).all():
        return True
    if not add_operands(node, [_initializer(node, "times", factor)]):
        return False
    set_attribute(node, "tail", [*ints_of(node, "tail"), NUMBERS["mul"]])
    return True


def _initializer(node: Any, what: str, numbers: Any) -> Any:
    return initializer(node.graph, f"{node.outputs[0].name}_{what}", numbers)


def _give(node: Any, grid: Grid) -> None:
    """Make of an operator the one that gives codes."""
    import onnx_ir as ir

    name = f"{node.op_type}Codes"
    place = [port.name for port in OPERATORS[name].inputs].index("out_scale")
    node.resize_inputs(place + 2)
    for number, (what, array) in enumerate((("scale", grid.scale), ("offset", grid.offset))):
        node.replace_input_with(place + number, _initializer(node, what, array))
    bits = [int(b) for b in grid.bits]
    set_attribute(node, "out_bits", bits[:1] if len(set(bits)) == 1 else bits)
    node.op_type = name
    node.outputs[0].dtype = ir.DataType.UINT8
