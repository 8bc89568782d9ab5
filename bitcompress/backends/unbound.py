"""Parts of a transposed value are cut out before they are transposed.

Queries, keys and values are mostly made by one layer and taken apart behind a permutation of five
axes. ONNX Runtime is slow at that, and some 50 times faster where one axis alone moves, as it does
in each part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bitcompress.backends.initializers import initializer


def cut_first(model: Any) -> None:
    """Let single places along an axis be cut out of what a Transpose reads, in an onnx_ir.Model."""
    graph = model.graph
    for node in list(graph):
        if node.domain or node.op_type != "Transpose" or node.outputs[0].is_graph_output():
            continue
        perm = list(node.attributes["perm"].value) if "perm" in node.attributes else []
        parts = [_part(user) for user, _ in node.outputs[0].uses()]
        axes = {part[0] for part in parts if part is not None}
        if not perm or not parts or None in parts or len(axes) != 1:
            continue
        for part in parts:
            assert part is not None
            _cut(graph, node, perm, part[0], part[1:])


def _part(cut: Any) -> tuple[int, Any, Any] | None:
    """A Slice of one place along one axis, the axis, and the Squeeze of that axis behind it."""
    if cut.domain or cut.op_type != "Slice" or len(cut.inputs) < 4 or cut.outputs[0].shape is None:
        return None
    uses = list(cut.outputs[0].uses())
    squeeze = uses[0][0] if len(uses) == 1 and not cut.outputs[0].is_graph_output() else None
    if squeeze is None or squeeze.domain or squeeze.op_type != "Squeeze":
        return None
    given, dropped = (_numbers(v) for v in (cut.inputs[3], (*squeeze.inputs, None)[1]))
    rank = len(cut.outputs[0].shape)
    if len(given) != 1 or [d % rank for d in dropped] != [given[0] % rank]:
        return None
    return given[0] % rank, cut, squeeze


def _numbers(value: Any) -> list[int]:
    """The integers of an initialiser; none where it is not one."""
    if value is None or not value.is_initializer():
        return []
    return [int(number) for number in value.const_value.numpy().reshape(-1)]


def _cut(graph: Any, turn: Any, perm: list[int], axis: int, found: Sequence[Any]) -> None:
    """Slice and Squeeze what the Transpose reads, and transpose the part by what is left of it."""
    import onnx_ir as ir

    (cut, squeeze), at = found, perm[axis]
    x, out = turn.inputs[0], squeeze.outputs[0]
    where = initializer(graph, f"{out.name}_axis", np.array([at], np.int64))
    left = [axis - (axis > at) for axis in perm if axis != at]
    part = ir.node("Slice", [x, *cut.inputs[1:3], where, *cut.inputs[4:]])
    flat = ir.node("Squeeze", [part.outputs[0], where])
    made = ir.node("Transpose", [flat.outputs[0]], attributes={"perm": left})
    for node, what in ((part, "part"), (flat, "flat")):
        node.outputs[0].name, node.outputs[0].dtype = f"{out.name}_{what}", out.dtype
    new = made.outputs[0]
    new.name, new.dtype, new.shape = f"{out.name}_turned", out.dtype, out.shape
    if out.shape is not None:
        dims: list[Any] = [None] * len(left)
        for place, axis_ in enumerate(left):
            dims[axis_] = out.shape[place]
        flat.outputs[0].shape = ir.Shape(dims)
    graph.insert_before(squeeze, (part, flat, made))
    out.replace_all_uses_with(new, replace_graph_outputs=True)
