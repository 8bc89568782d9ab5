"""Moves: operators that only say where numbers go. Where a chain of them takes each number.

A chain of views, copies, rolls and permutations is run once on the numbers 0, 1, 2, ... in place of
its input; what comes out says where each number came from, whatever the chain was. So windows of
any shape, shifted or not, are found by what they do and not by how they are written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from bitcompress.program.ir import Node, Value

aten = torch.ops.aten

VIEWS = frozenset(
    {
        aten.view.default, aten._unsafe_view.default, aten._reshape_alias.default,
        aten.permute.default, aten.transpose.int, aten.t.default, aten.unsqueeze.default,
        aten.squeeze.dim, aten.squeeze.default, aten.squeeze.dims, aten.slice.Tensor,
        aten.select.int, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int,
        aten.alias.default, aten.detach.default, aten.expand.default, aten.narrow.default,
        aten.chunk.default, aten.unfold.default, aten.movedim.int,
    }
)  # fmt: skip
"""Moves that touch no memory."""

COPIES = frozenset({aten.clone.default, aten.roll.default, aten.flip.default})
"""Moves that write what they move."""

LARGEST = 1 << 28
"""Values of more numbers are not followed: the numbers of places would take too much memory."""


def is_view(node: Node | None) -> bool:
    """Whether a node only looks at memory in another way."""
    return node is not None and node.kind == "aten" and node.target in VIEWS


def is_move(node: Node | None) -> bool:
    """Whether a node moves numbers of one value and does nothing else with them."""
    return node is not None and node.kind == "aten" and node.target in (VIEWS | COPIES)


def apply_move(node: Node, source: Value, places: Tensor) -> list[Tensor]:
    """The places after a move, one tensor an output of it."""
    args, kwargs = tree_map_only(
        Value, lambda v: places if v is source else v, (node.args, node.kwargs)
    )
    made = node.target(*args, **kwargs)
    return list(made) if isinstance(made, (tuple, list)) else [made]


def places_in(value: Value) -> Tensor:
    """0, 1, 2, ... in the order of memory of a value without gaps, in the value's own shape."""
    places = torch.empty_strided(value.shape, value.stride, dtype=torch.int32)
    flat = torch.as_strided(places, (value.numel,), (1,))
    torch.arange(value.numel, dtype=torch.int32, out=flat)
    return places


def is_dense(value: Value) -> bool:
    """Whether a value has its memory for itself, without gaps or overlaps."""
    axes = sorted((s, n) for s, n in zip(value.stride, value.shape, strict=True) if n > 1)
    step = 1
    for stride, size in axes:
        if stride != step:
            return False
        step *= size
    return value.root is None


def uses(value: Value) -> list[tuple[Node, Value]]:
    """Who reads the memory of a value, and as which view; the views themselves do not count."""
    found: list[tuple[Node, Value]] = []
    for look in value.looks:
        found += uses(look)
    for node in value.users:
        if is_view(node):
            for out in node.outs:
                found += uses(out)
        else:
            found.append((node, value))
    return found


def origin(value: Value, through: tuple[Any, ...] = ()) -> Value:
    """The value from which moves (and the operators in `through`) lead to this one."""
    while value.node is not None:
        node = value.node
        if not is_move(node) and not (node.kind == "aten" and node.target in through):
            return value
        read = [v for v in node.inputs() if v.const is None]
        if len(read) != 1:
            return value
        value = read[0]
    return value


def moved(node: Node) -> Value:
    """The value that a node moves."""
    return next(v for v in node.inputs() if v.const is None)


def trail(value: Value, source: Value) -> list[Node]:
    """The nodes on the way from `source` to `value`, first to last."""
    nodes: list[Node] = []
    while value is not source:
        assert value.node is not None
        nodes.append(value.node)
        value = moved(value.node)
    return nodes[::-1]


def signature(nodes: list[Node], source: Value, value: Value) -> tuple[Any, ...]:
    """What a chain does, without whose numbers it does it to: a key to remember its places by."""
    steps: list[Any] = [source.shape, source.stride]
    for node in nodes:
        args = tree_map_only(Value, lambda v: (v.shape, v.stride), (node.args, node.kwargs))
        steps.append((str(node.target), repr(args)))
        steps.append(len(node.outs))
    last = value.node.outs.index(value) if value.node is not None else 0
    return (*steps, value.shape, value.stride, last)


def places_of(value: Value, source: Value, skip: tuple[Any, ...] = ()) -> Tensor:
    """Where in the memory of `source` each number of `value` comes from.

    Shapes: as value, int32. Nodes whose operator is in `skip` change numbers, not places.
    """
    places = places_in(source)
    at = source
    chain = trail(value, source)
    for number, node in enumerate(chain):
        following = chain[number + 1] if number + 1 < len(chain) else None
        wanted = value if following is None else moved(following)
        if node.target in skip:  # its output may lie in another order
            turned = torch.empty_strided(wanted.shape, wanted.stride, dtype=torch.int32)
            places = turned.copy_(places)
        else:
            places = apply_move(node, at, places)[node.outs.index(wanted)]
        at = wanted
    return places
