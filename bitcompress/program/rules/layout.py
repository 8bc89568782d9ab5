"""Pictures lie with their channels last from the first packed convolution on.

A recorded run may have had channels first; packed layers, and steps on rows of channels, want them
side by side. Operators that work number by number follow; others get the old layout back.
"""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_map_only

from bitcompress.program.ir import Graph, Node, Value
from bitcompress.program.moves import is_dense, is_view

aten = torch.ops.aten

FOLLOW = frozenset(
    {
        aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.relu.default,
        aten.leaky_relu.default, aten.sigmoid.default, aten.neg.default, aten.clamp.default,
        aten.hardtanh.default, aten._prelu_kernel.default, aten.silu.default,
        aten.pixel_shuffle.default,
    }
)  # fmt: skip
"""Operators of torch that give the same numbers in any layout, and keep the one they are given."""
ALIKE = frozenset({"gelu", "gelu_tanh", "sigmoid", "silu", "leaky"})
"""Operators of ours that do."""


def last_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of pictures (N, C, H, W) with channels last."""
    _, c, h, w = shape
    return (h * w * c, 1, w * c, c)


def _first(value: Value) -> bool:
    """Whether these are dense pictures with channels first, and more than one of them."""
    if len(value.shape) != 4 or value.const is not None or not is_dense(value):
        return False
    _, c, h, w = value.shape
    return c > 1 and h * w > 1 and value.stride[1] != 1


def channels_last(graph: Graph) -> None:
    """Lay out what packed convolutions give, and what follows them, with channels last."""
    turned: dict[int, Value] = {}
    nodes: list[Node] = []

    def turn(value: Value) -> Value:
        if not _first(value):
            return value
        if id(value) not in turned:
            made = Value(value.shape, last_strides(value.shape), 0, value.dtype)
            made.node = Node("relayout", None, (value,), {}, [made])
            nodes.append(made.node)
            turned[id(value)] = made
        return turned[id(value)]

    for node in graph.nodes:
        ours = node.kind == "conv2d" or node.kind in ALIKE
        follows = node.kind == "aten" and node.target in FOLLOW
        beside = (ours or follows) and (_beside_last(node) or _before_packed(graph, node))
        if node.kind == "conv2d" or beside:
            swapped = {
                id(v): turn(v)
                for v in node.inputs()
                if node.kind == "conv2d" or v.shape == node.out.shape
            }

            def swap(value: Value, by: dict[int, Value] = swapped) -> Value:
                return by.get(id(value), value)

            node.args, node.kwargs = tree_map_only(Value, swap, (node.args, node.kwargs))
            for out in node.outs:
                if _first(out):
                    out.taped, out.stride = out.stride, last_strides(out.shape)
        elif is_view(node):
            _look_again(node)
        nodes.append(node)
    graph.nodes = nodes
    graph.link()


def _look_again(node: Node) -> None:
    """Give the views of a value that is laid out otherwise now their strides in the new layout."""
    x = next(v for v in node.inputs())
    if x.taped is None:
        return
    meta = torch.empty_strided(x.shape, x.stride, dtype=x.dtype, device="meta")
    args, kwargs = tree_map_only(Value, lambda v: meta, (node.args, node.kwargs))
    try:
        made = node.target(*args, **kwargs)
    except RuntimeError:  # no view of the new layout
        return
    looks = made if isinstance(made, (tuple, list)) else (made,)
    for out, look in zip(node.outs, looks, strict=True):
        out.taped, out.stride = out.stride, tuple(look.stride())
        out.offset = x.offset + int(look.storage_offset())


def _before_packed(graph: Graph, node: Node) -> bool:
    """Whether a packed convolution reads a node's pictures, changed number by number at most."""
    if len(node.outs) != 1 or len(node.out.shape) != 4 or node.kind == "conv2d":
        return False
    if not _small_others(node):
        return False
    for user in node.out.users:
        steps = user.kind in ALIKE or (user.kind == "aten" and user.target in FOLLOW)
        if user.kind == "conv2d" or (steps and _before_packed(graph, user)):
            return True
    return False


def _beside_last(node: Node) -> bool:
    """Whether one of a node's pictures has been laid out with channels last."""
    pictures = [v for v in node.inputs() if len(v.shape) == 4]
    if not any(
        v.taped is not None or (v.node is not None and v.node.kind == "relayout") for v in pictures
    ):
        return False
    return _small_others(node) and len(node.outs) == 1


def _small_others(node: Node) -> bool:
    """Whether all that a node reads beside pictures is constant, or one number."""
    others = [v for v in node.inputs() if v.shape != node.out.shape and len(v.shape) != 4]
    return all(v.const is not None or v.numel == 1 for v in others)
