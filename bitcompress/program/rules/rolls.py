"""A roll of tokens changes places with a layer that treats each token alike.

Shifted windows roll the tokens before a linear and back after another one. Moved next to the
attention, both become a part of its tables.
"""

from __future__ import annotations

import torch

from bitcompress.program import moves
from bitcompress.program.ir import Graph, Node, Value

aten = torch.ops.aten
ALIKE = ("linear",)


def swap_rolls(graph: Graph) -> None:
    """Move rolls from before a linear to behind it, towards an attention, and the other way."""
    for node in list(graph.nodes):
        if node.kind not in ALIKE:
            continue
        before = node.args[0].node
        if _is_roll(before, node.args[0]) and _reaches_attention(node.out):
            _after(graph, before, node)
        users = node.out.users
        if len(users) == 1 and _is_roll(users[0], users[0].outs[0]) and _comes_from(node.args[0]):
            _before(graph, node, users[0])
    graph.link()
    graph.prune()


def _is_roll(node: Node | None, value: Value) -> bool:
    """Whether a node rolls axes other than the channels."""
    if node is None or node.kind != "aten" or node.target != aten.roll.default:
        return False
    dims = node.args[2] if len(node.args) > 2 else ()
    rank = len(value.shape)
    return bool(dims) and all(dim % rank != rank - 1 for dim in dims)


def _reaches_attention(value: Value) -> bool:
    found = False
    for user in value.users:
        scaled = user.kind == "aten" and user.target == aten.mul.Tensor
        if user.kind == "attend":
            found = True
        elif moves.is_move(user) or scaled:
            if not all(_reaches_attention(out) or not out.users for out in user.outs):
                return False
            found = True
        else:
            return False
    return found


def _comes_from(value: Value) -> bool:
    source = moves.origin(value)
    return source.node is not None and source.node.kind == "attend"


def _after(graph: Graph, roll: Node, linear: Node) -> None:
    """linear(roll(x)) as roll(linear(x))."""
    old = linear.out
    fresh = Value(old.shape, old.stride, 0, old.dtype)
    made = Node(linear.kind, linear.target, (roll.args[0],), {}, [fresh])
    fresh.node = made
    rolled = Node("aten", aten.roll.default, (fresh, *roll.args[1:]), {}, [old])
    old.node = rolled
    place = graph.nodes.index(linear)
    graph.nodes[place : place + 1] = [made, rolled]
    graph.link()


def _before(graph: Graph, linear: Node, roll: Node) -> None:
    """roll(linear(x)) as linear(roll(x))."""
    x, y = linear.args[0], roll.out
    turned = Value(x.shape, x.stride, 0, x.dtype)
    rolled = Node("aten", aten.roll.default, (x, *roll.args[1:]), {}, [turned])
    turned.node = rolled
    made = Node(linear.kind, linear.target, (turned,), {}, [y])
    y.node = made
    place = graph.nodes.index(linear)
    graph.nodes[place : place + 1] = [rolled, made]
    graph.nodes.remove(roll)
    graph.link()
