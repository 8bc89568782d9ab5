"""What follows pictures that have channels last, node by node, and what tokens have to do with it.

A rule is given a node and the values of the graph that are there with channels last. It works on
those in place of its inputs and gives back what it gave, or leaves the node alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bitcompress.backends.schema import DOMAIN
from bitcompress.backends.twins import Twins, dims_of, to_first, to_last


def _transpose(twins: Twins, node: Any) -> None:
    """Back to channels last: the twin. To channels first: what it reads is the twin."""
    x, out = node.inputs[0], node.outputs[0]
    perm = tuple(node.attributes["perm"].value) if "perm" in node.attributes else ()
    if len(perm) < 3:
        return
    if x in twins.last and perm == to_last(len(perm)):
        if not out.is_graph_output():
            out.replace_all_uses_with(twins.last[x])
    elif perm == to_first(len(perm)) and out.shape is not None:
        twins.last[out] = x


def _reshape(twins: Twins, node: Any) -> None:
    """Pixels to tokens and back: (N, C, ...) stays so, and only the rest has another shape."""
    import onnx_ir as ir

    x, out = node.inputs[0], node.outputs[0]
    before, after = dims_of(x), dims_of(out)
    if x not in twins.last or before is None or after is None or after[:2] != before[:2]:
        return
    if len(after) == 2:  # a number a channel: both orders are one
        node.replace_input_with(0, twins.last[x])
        return
    if len(after) < 3 or _copies(node.inputs[1]):
        return
    sizes = twins.picked(node, node.inputs[1], to_last(len(after)))
    made = ir.node("Reshape", [twins.last[x], sizes], attributes=dict(node.attributes))
    twin = made.outputs[0]
    twin.name, twin.dtype = f"{out.name}_last", out.dtype
    twin.shape = ir.Shape([out.shape[axis] for axis in to_last(len(after))])
    twins.graph.insert_after(node, made)
    twins.last[out] = twin


def _copies(sizes: Any) -> bool:
    """Whether sizes of a Reshape may say 0: as the input has it in the same place."""
    if sizes.is_initializer():
        return bool((sizes.const_value.numpy() == 0).any())
    made = sizes.producer()
    parts = made.inputs if made is not None and made.op_type == "Concat" else ()
    return not parts or any(part.is_initializer() and _copies(part) for part in parts)


def _by_number(twins: Twins, node: Any) -> None:
    """Number by number on one picture."""
    if node.inputs[0] in twins.last and node.outputs[0].shape is not None:
        node.replace_input_with(0, twins.last[node.inputs[0]])
        twins.give_back(node)


def _pair(twins: Twins, node: Any) -> None:
    """A sum or product of pictures, one of which has channels last, or of one and a constant."""
    ranks = {len(value.shape) for value in node.inputs if value in twins.last}
    out = node.outputs[0]
    if len(ranks) != 1 or out.shape is None or len(out.shape) not in ranks:
        return
    made = [_operand(twins, node, value, len(out.shape)) for value in node.inputs]
    if None in made:
        return
    for index, value in enumerate(made):
        node.replace_input_with(index, value)
    twins.give_back(node)


def _operand(twins: Twins, node: Any, value: Any, rank: int) -> Any:
    """A value as it is added to pictures with channels last; None where it stays as it is.

    A whole picture is transposed for it: else the other one would be, and what comes out mostly
    goes where channels are last.
    """
    if value in twins.last:
        return twins.last[value]
    if not value.is_initializer():
        whole = dims_of(value) is not None and dims_of(value) == dims_of(node.outputs[0])
        return twins.of(node, value) if whole and rank > 3 else None
    if value.const_value.size == 1 and len(value.shape) < rank:
        return value
    numbers = value.const_value.numpy()
    if numbers.ndim > rank:
        return None
    numbers = numbers.reshape((1,) * (rank - numbers.ndim) + numbers.shape)
    return twins.constant(
        np.ascontiguousarray(numbers.transpose(to_last(rank))), f"{value.name}_last{rank}"
    )


def _like(twins: Twins, node: Any) -> None:
    """Operators of ours that read pictures in either order."""
    import onnx_ir as ir

    if node.inputs[0] not in twins.last:
        return
    node.replace_input_with(0, twins.last[node.inputs[0]])
    node.attributes["x_last"] = ir.AttrInt64("x_last", 1)
    if node.op_type == "GroupNorm":
        twins.give_back(node)


def _join(twins: Twins, node: Any) -> None:
    """Pictures side by side."""
    out = node.outputs[0]
    if not all(value in twins.last for value in node.inputs) or out.shape is None:
        return
    for index, value in enumerate(node.inputs):
        node.replace_input_with(index, twins.last[value])
    _set_axis(node, len(out.shape))
    twins.give_back(node)


def _split(twins: Twins, node: Any) -> None:
    """A picture in parts."""
    x = node.inputs[0]
    if x not in twins.last or any(out.shape is None for out in node.outputs):
        return
    node.replace_input_with(0, twins.last[x])
    _set_axis(node, len(x.shape))
    for number in range(len(node.outputs)):
        twins.give_back(node, number)


def _set_axis(node: Any, rank: int) -> None:
    import onnx_ir as ir

    axis = int(node.attributes["axis"].value) if "axis" in node.attributes else 0
    node.attributes["axis"] = ir.AttrInt64("axis", to_last(rank).index(axis % rank))


def _slice(twins: Twins, node: Any) -> None:
    """A part of a picture, where it is known along which axes."""
    x = node.inputs[0]
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    if x not in twins.last or axes is None or not axes.is_initializer():
        return
    if node.outputs[0].shape is None:
        return
    rank = len(x.shape)
    turned = [to_last(rank).index(int(a) % rank) for a in axes.const_value.numpy().reshape(-1)]
    node.replace_input_with(0, twins.last[x])
    name = f"{node.outputs[0].name}_axes"
    node.replace_input_with(3, twins.constant(np.array(turned, np.int64), name))
    twins.give_back(node)


Rule = Callable[[Twins, Any], None]
UNARY = (
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "Abs", "Neg", "Exp", "Erf", "Sqrt", "Elu",
    "HardSwish", "HardSigmoid", "Softplus", "Selu",
)  # fmt: skip
"""Standard operators whose first input alone is a picture, number by number."""

FOLLOW: dict[tuple[str, str], Rule] = {
    ("", "Transpose"): _transpose,
    ("", "Reshape"): _reshape,
    ("", "Concat"): _join,
    ("", "Split"): _split,
    ("", "Slice"): _slice,
    **dict.fromkeys((("", name) for name in ("Add", "Mul", "Sub", "Div")), _pair),
    **dict.fromkeys((("", name) for name in UNARY), _by_number),
    **dict.fromkeys(((DOMAIN, name) for name in ("BitGelu", "BitSigmoid", "Silu")), _by_number),
    **dict.fromkeys(((DOMAIN, name) for name in ("GroupNorm", "PixelMean")), _like),
}
"""What is done with a node, by its domain and operator."""
