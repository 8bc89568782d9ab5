"""Moves in exported programs; a roll of tokens changes places with a linear, towards an attention.

Shifted windows roll the tokens before a linear and back behind another one. A linear treats each
token alike, so it does not matter which comes first; beside the attention both become its table.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from bitcompress.program.moves import COPIES, VIEWS

aten = torch.ops.aten
MOVES: frozenset[Any] = VIEWS | COPIES | {
    aten.reshape.default, aten.contiguous.default, aten.flatten.using_ints,
    aten.unflatten.int, aten.movedim.int, aten.movedim.intlist, aten.numpy_T.default,
    operator.getitem,
}  # fmt: skip
LAYERS = ("linear", "conv2d", "binary_conv2d")
"""Nodes whose inputs the gate compares, in their order."""

Turn = tuple[tuple[int, ...], tuple[int, ...]]
"""By how much a tensor is rolled, and along which axes."""


def is_move(node: Any) -> bool:
    """Whether a node of a program moves numbers of one value and does nothing else with them."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in MOVES


def chain_to(node: fx.Node) -> list[fx.Node]:
    """The values from which moves alone lead to this one, the farthest first, and itself."""
    found = [node]
    while is_move(found[-1]) and isinstance(found[-1].args[0], fx.Node):
        found.append(found[-1].args[0])
    return found[::-1]


def _is_roll(node: Any) -> bool:
    """Whether a node rolls axes other than the last."""
    if not isinstance(node, fx.Node) or node.target != aten.roll.default or len(node.args) < 3:
        return False
    rank = node.meta["val"].dim()
    return bool(node.args[2]) and all(dim % rank != rank - 1 for dim in node.args[2])  # type: ignore[union-attr]


def swap_rolls(graph: fx.Graph) -> dict[int, Turn]:
    """Let rolls change places with linears, towards an attention; which layers now see other rows.

    A linear treats each row alike, so it does not matter which of both comes first.
    """
    linear = torch.ops.bitcompress.linear.default
    layers = [n for n in graph.nodes if _is_layer(n)]
    turned: dict[int, Turn] = {}
    for number, node in enumerate(layers):
        if node.target != linear:
            continue
        roll = node.args[0]
        if _is_roll(roll) and len(roll.users) == 1 and _reaches(node):
            node.args = (roll.args[0], *node.args[1:])
            _put_behind(graph, roll, node)
            turned[number] = _opposite(roll)
            continue
        users = list(node.users)
        if len(users) == 1 and _is_roll(users[0]) and _comes(node.args[0]):
            roll = users[0]
            with graph.inserting_before(node):
                before = graph.call_function(roll.target, (node.args[0], *roll.args[1:]))
            before.meta = {**roll.meta, "val": node.args[0].meta["val"]}
            node.args = (before, *node.args[1:])
            roll.replace_all_uses_with(node)
            graph.erase_node(roll)
            turned[number] = _turn(before)
    return turned


def _put_behind(graph: fx.Graph, roll: fx.Node, node: fx.Node) -> None:
    """A roll that stood before a layer, behind it."""
    users = list(node.users)
    with graph.inserting_after(node):
        made = graph.call_function(roll.target, (node, *roll.args[1:]))  # type: ignore[arg-type]
    made.meta = {**roll.meta, "val": node.meta["val"]}
    for user in users:
        user.replace_input_with(node, made)
    graph.erase_node(roll)


def _turn(roll: fx.Node) -> Turn:
    shifts: Any = roll.args[1]
    dims: Any = roll.args[2]
    return tuple(shifts), tuple(dims)


def _opposite(roll: fx.Node) -> Turn:
    shifts, dims = _turn(roll)
    return tuple(-shift for shift in shifts), dims


def _is_layer(node: fx.Node) -> bool:
    return any(node.target == getattr(torch.ops.bitcompress, name).default for name in LAYERS)


def _reaches(node: fx.Node) -> bool:
    """Whether moves alone (and a factor) lead from a value to attentions."""
    attention, found = torch.ops.bitcompress.attention.default, False
    for user in node.users:
        passes = is_move(user) or user.target == aten.mul.Tensor
        if user.target == attention or (passes and _reaches(user)):
            found = True
        elif user.users:
            return False
    return found


def _comes(node: Any) -> bool:
    first = chain_to(node)[0]
    return bool(first.target == torch.ops.bitcompress.attention.default)
