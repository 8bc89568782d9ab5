"""What stands beside a packed layer becomes a step of it, so that numbers pass memory once.

A norm before a layer becomes its head; activations, sums and factors behind become its tail; the
transposition and the factor before an attention become attributes. Steps are the same operations in
the same order (csrc/include/bitcompress/bits.h), so no number changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bitcompress.backends.initializers import initializer
from bitcompress.backends.reference import operands_of
from bitcompress.backends.schema import DOMAIN, OPERANDS, OPERATORS
from bitcompress.packed.steps import NUMBERS

LAYERS = ("BitLinear", "BitConv2d")


def fuse(model: Any) -> None:
    """Fold norms, activations and sums into the packed layers beside them (an onnx_ir.Model)."""
    graph = model.graph
    for node in list(graph):
        if node.domain == DOMAIN and node.op_type in LAYERS:
            _take_head(graph, node)
        elif node.domain == DOMAIN and node.op_type == "BitAttention":
            _take_turn(graph, node)
            _take_factor(graph, node)
    for node in list(graph):
        if node.domain == DOMAIN and node.op_type in LAYERS and node.graph is not None:
            while _take_tail(graph, node):
                pass


def ints_of(node: Any, name: str) -> list[int]:
    """The integers of an attribute; none where it does not stand."""
    if name not in node.attributes:
        return []
    value = node.attributes[name].value
    return [int(value)] if isinstance(value, int) else list(value)


def set_attribute(node: Any, name: str, value: Any) -> None:
    """Give a node an integer, a float or a list of integers."""
    import onnx_ir as ir

    kinds: dict[type, Callable[..., Any]] = {
        int: ir.AttrInt64, float: ir.AttrFloat32, list: ir.AttrInt64s
    }  # fmt: skip
    node.attributes[name] = kinds[type(value)](name, value)


def _alone(value: Any) -> Any:
    """The only node that reads a value; None where several do or the graph gives it out."""
    uses = list(value.uses())
    return uses[0][0] if len(uses) == 1 and not value.is_graph_output() else None


def _is(node: Any, op_type: str, domain: str = "") -> bool:
    return node is not None and node.domain == domain and node.op_type == op_type


def _place(node: Any) -> int:
    """The number of the first port of an operand."""
    return [p.name for p in OPERATORS[node.op_type].inputs].index("operand0")


def add_operands(node: Any, values: list[Any]) -> bool:
    """Put values behind the operands that a node has; False where there is no room."""
    held = operands_of(ints_of(node, "head")) + operands_of(ints_of(node, "tail"))
    if held + len(values) > OPERANDS:
        return False
    for number, value in enumerate(values):
        index = _place(node) + held + number
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)
    return True


def _take_head(graph: Any, node: Any) -> None:
    """A layer norm that this layer alone reads."""
    x = node.inputs[0]
    norm = x.producer()
    rows = node.op_type == "BitLinear" or _last(node, "x_last")
    if not rows or not _is(norm, "LayerNorm", DOMAIN) or _alone(x) is not node:
        return
    affine = list(norm.inputs[1:3])
    if len(affine) < 2 or None in affine or not add_operands(node, affine):
        return
    set_attribute(node, "head", [NUMBERS["norm"]])
    set_attribute(node, "eps", float(norm.attributes["eps"].value))
    node.replace_input_with(0, norm.inputs[0])
    graph.remove(norm, safe=True)


def _last(node: Any, name: str) -> bool:
    return name in node.attributes and bool(node.attributes[name].value)


def _take_tail(graph: Any, node: Any) -> bool:
    """The one node behind a layer, if it is a step. Returns: whether it was."""
    out = node.outputs[0]
    following = _alone(out)
    if following is None or len(following.outputs) != 1:
        return False
    step = _step(node, following)
    if step is None:
        return False
    kind, operands = step
    if not add_operands(node, operands):
        return False
    if any(value.producer() is not None for value in operands):
        # What is added must be there before the layer runs: it moves down to its tail.
        graph.remove(node)
        graph.insert_before(following, node)
    set_attribute(node, "tail", [*ints_of(node, "tail"), NUMBERS[kind]])
    made = following.outputs[0]
    name, shape, dtype = made.name, made.shape, made.dtype
    made.replace_all_uses_with(out, replace_graph_outputs=True)
    graph.remove(following, safe=True)
    out.name, out.shape, out.dtype = name, shape, dtype
    return True


def _step(node: Any, following: Any) -> tuple[str, list[Any]] | None:
    """Which step a node is behind a layer, and its operands."""
    if following.domain == DOMAIN:
        if following.op_type == "BitGelu":
            tanh = "tanh" in following.attributes and following.attributes["tanh"].value
            return ("gelu_tanh" if tanh else "gelu"), []
        return {"BitSigmoid": ("sigmoid", []), "Silu": ("silu", [])}.get(following.op_type)
    if following.domain:
        return None
    if following.op_type == "Relu":
        return "relu", []
    if following.op_type == "LeakyRelu":
        alpha = following.attributes["alpha"].value if "alpha" in following.attributes else 0.01
        return "leaky", [_constant(node, alpha)]
    if following.op_type in ("Add", "Mul"):
        first, second = following.inputs
        other = second if first is node.outputs[0] else first
        if first is not second and _fits(node, other):
            return following.op_type.lower(), [other]
    return None


def _fits(node: Any, value: Any) -> bool:
    """Whether a value is an operand: one number, or as large as what the layer gives."""
    if value.is_initializer():
        return bool(value.const_value.size == 1 and value.const_value.numpy().dtype == np.float32)
    shape = node.outputs[0].shape
    rows = node.op_type == "BitLinear" or _last(node, "y_last")
    same = shape is not None and value.shape is not None and list(shape) == list(value.shape)
    known = same and all(isinstance(s, int) or s.value is not None for s in shape)
    return bool(rows and known)


def _constant(node: Any, number: float) -> Any:
    name = f"{node.outputs[0].name}_leak{len(ints_of(node, 'tail'))}"
    return initializer(node.graph, name, np.array([number], np.float32))


def _take_turn(graph: Any, node: Any) -> None:
    """Keys that are transposed for the attention alone are taken as they lie."""
    turn = node.inputs[1].producer()
    if not _is(turn, "Transpose") or _alone(node.inputs[1]) is not node:
        return
    perm = list(turn.attributes["perm"].value)
    n = len(perm)
    if perm == [*range(n - 2), n - 1, n - 2]:
        node.replace_input_with(1, turn.inputs[0])
        set_attribute(node, "turned", 1)
        graph.remove(turn, safe=True)


def _take_factor(graph: Any, node: Any) -> None:
    """Queries that are scaled for the attention alone are scaled when they are cut."""
    scaled = node.inputs[0].producer()
    if not _is(scaled, "Mul") or _alone(node.inputs[0]) is not node:
        return
    for index in (0, 1):
        value = scaled.inputs[index]
        if value.is_initializer() and value.const_value.size == 1:
            set_attribute(node, "factor", float(value.const_value.numpy().reshape(())))
            node.replace_input_with(0, scaled.inputs[1 - index])
            graph.remove(scaled, safe=True)
            return
