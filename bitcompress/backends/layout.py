"""Pictures of packed convolutions lie channels last, as the kernels read them.

Every BitConv2d takes and gives channels last; what works number by number between them follows, and
what does not is given the pictures as it knows them. Only orders in memory change, no number.
"""

from __future__ import annotations

from typing import Any

from bitcompress.backends.schema import DOMAIN

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
BY_NUMBER = {
    ("", "Relu"), ("", "LeakyRelu"), ("", "Sigmoid"), ("", "Tanh"), ("", "Clip"),
    (DOMAIN, "BitGelu"), (DOMAIN, "BitSigmoid"), (DOMAIN, "Silu"),
}  # fmt: skip
"""Operators whose first input alone is a picture, number by number."""
LIKE = ("GroupNorm", "PixelMean")
"""Operators of ours that read pictures in either order."""
PAIRS = ("Add", "Mul", "Sub")


def channels_last(model: Any) -> None:
    """Give all BitConv2d of an onnx_ir.Model channels last, and what stands between them."""
    graph = model.graph
    last: dict[Any, Any] = {}
    for node in list(graph):
        if node.domain == DOMAIN and node.op_type == "BitConv2d":
            _turn_convolution(graph, node, last)
        elif node.domain == "" and node.op_type == "Transpose" and node.inputs[0] in last:
            if tuple(node.attributes["perm"].value) == TO_LAST:
                node.outputs[0].replace_all_uses_with(last[node.inputs[0]])
        elif node.domain == DOMAIN and node.op_type in LIKE and node.inputs[0] in last:
            _turn_like(graph, node, last)
        elif _follows(node, last):
            _turn_pointwise(graph, node, last)


def _transposed(graph: Any, before: Any, value: Any, perm: tuple[int, ...], name: str) -> Any:
    """A Transpose of a value, inserted before a node."""
    import onnx_ir as ir

    made = ir.node("Transpose", [value], attributes={"perm": list(perm)})
    out = made.outputs[0]
    out.name, out.dtype = name, value.dtype
    if value.shape is not None:
        out.shape = ir.Shape([value.shape[axis] for axis in perm])
    graph.insert_before(before, made)
    return out


def _in_last(graph: Any, node: Any, value: Any, last: dict[Any, Any]) -> Any:
    """The value with channels last: known, the source of a Transpose, or transposed here."""
    if value not in last:
        source = value.producer()
        back = source is not None and source.domain == "" and source.op_type == "Transpose"
        if back and tuple(source.attributes["perm"].value) == TO_FIRST:
            last[value] = source.inputs[0]
        else:
            last[value] = _transposed(graph, node, value, TO_LAST, f"{value.name}_last")
    return last[value]


def _give_back(graph: Any, node: Any, last: dict[Any, Any]) -> None:
    """Whoever reads what now has channels last is given it with channels first."""
    import onnx_ir as ir

    out = node.outputs[0]
    first = ir.node("Transpose", [out], attributes={"perm": list(TO_FIRST)})
    value = first.outputs[0]
    value.name, value.dtype, value.shape = f"{out.name}_first", out.dtype, out.shape
    if out.shape is not None and len(out.shape) == 4:
        out.shape = ir.Shape([out.shape[axis] for axis in TO_LAST])
    graph.insert_after(node, first)
    for user, index in list(out.uses()):
        if user is not first:
            user.replace_input_with(index, value)
    for number, output in enumerate(graph.outputs):
        if output is out:
            graph.outputs[number] = value
    last[value] = out


def _turn_convolution(graph: Any, node: Any, last: dict[Any, Any]) -> None:
    import onnx_ir as ir

    node.replace_input_with(0, _in_last(graph, node, node.inputs[0], last))
    for name in ("x_last", "y_last"):
        node.attributes[name] = ir.AttrInt64(name, 1)
    _give_back(graph, node, last)


def _turn_like(graph: Any, node: Any, last: dict[Any, Any]) -> None:
    import onnx_ir as ir

    node.replace_input_with(0, last[node.inputs[0]])
    node.attributes["x_last"] = ir.AttrInt64("x_last", 1)
    if node.op_type == "GroupNorm":
        _give_back(graph, node, last)


def _follows(node: Any, last: dict[Any, Any]) -> bool:
    """Whether a node works number by number on pictures that have channels last."""
    if (node.domain, node.op_type) in BY_NUMBER:
        return node.inputs[0] in last
    return node.domain == "" and node.op_type in PAIRS and _pair_turns(node, last)


def _pair_turns(node: Any, last: dict[Any, Any]) -> bool:
    """Whether a sum or product is of two pictures, one of which has channels last already."""
    known = [value in last for value in node.inputs]
    if all(known):
        return True
    if not any(known):
        return False
    other = node.inputs[known.index(False)]
    return bool(other.is_initializer() and other.const_value.size == 1)


def _turn_pointwise(graph: Any, node: Any, last: dict[Any, Any]) -> None:
    for index, value in enumerate(node.inputs):
        if value in last:
            node.replace_input_with(index, last[value])
    _give_back(graph, node, last)
