"""Attention reads its operands where they are, and writes its result where it is wanted.

Cutting into windows, shifting, splitting heads and joining again are moves: they become tables of
rows, whatever they were written as.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitcompress.packed.attention import AttendSpec, ProductGrids, Term
from bitcompress.packed.gathered import Gathered, Places
from bitcompress.program import moves
from bitcompress.program.ir import Graph, Node, Value

aten = torch.ops.aten
SCALES = (aten.mul.Tensor,)


class _No(Exception):
    """Why an attention cannot be gathered."""


def gather(graph: Graph, memory: dict[Any, Tensor]) -> None:
    """Give every attention of the graph tables in place of moved copies. `memory` keeps places."""
    for node in list(graph.nodes):
        if node.kind != "attend":
            continue
        try:
            _gather(graph, node, memory)
            graph.note("attention gathered in place")
        except _No as reason:
            graph.note(f"attention not gathered: {reason}")
    graph.prune()


def _gather(graph: Graph, node: Node, memory: dict[Any, Tensor]) -> None:
    q, k, v, *tensors = node.args
    spec: AttendSpec = node.target
    if any(term.const is None for term in tensors):
        raise _No("what is added to the logits depends on the input")
    heads = q.shape[-3] if len(q.shape) > 3 else 1
    source_q, factor = _scaled(q)
    sources = source_q, moves.origin(k), moves.origin(v)
    places = []
    for value, source in zip((q, k, v), sources, strict=True):
        if not moves.is_dense(source) or source.dtype != torch.float32:
            raise _No("an operand has gaps in memory")
        if source.numel > moves.LARGEST:
            raise _No("an operand is too large to follow")
        at = _places(value, source, memory, SCALES if value is q else ())
        places.append(_table(at.transpose(-2, -1) if value is k else at, heads))
    last, out = _scattered(node.out, heads, memory)
    terms = zip(tensors, spec.multiplies, spec.views, strict=True)
    work = Gathered(
        q.shape[-1], v.shape[-1], places[0], places[1], places[2], out,
        _of_batch(spec.qk, q.shape[:-2]), _of_batch(spec.av, q.shape[:-2]), factor,
        tuple(Term(term.const, multiply, view) for term, multiply, view in terms),
    )  # fmt: skip
    if work.bound() is None:
        raise _No("the native kernels do not take it")
    fused = Node("attention", work, sources, {}, [last])
    if last.node is not node and last.node is not None:
        last.node.outs = []  # what was a copy is now written in place
        graph.nodes.remove(last.node)
    graph.nodes[graph.nodes.index(node)] = fused
    last.node = fused
    graph.link()


def _of_batch(grids: ProductGrids, lead: tuple[int, ...]) -> ProductGrids:
    """The same grids for matrices along one axis."""

    def flat(part: Tensor) -> Tensor:
        return part if part.numel() == 1 else part.expand(*lead, 1, 1).reshape(-1, 1, 1)

    a, b = (tuple(flat(part) for part in pair) for pair in (grids.a, grids.b))
    return ProductGrids((a[0], a[1]), (b[0], b[1]), grids.bits, grids.per_row)


def _scaled(q: Value) -> tuple[Value, float]:
    """Where q comes from, and by what number it was multiplied on the way."""
    value = moves.origin(q)
    node = value.node
    if node is not None and node.kind == "aten" and node.target == aten.mul.Tensor:
        number = _number(node.args[1])
        if number is not None and isinstance(node.args[0], Value):
            return moves.origin(node.args[0]), number
    return value, 1.0


def _number(x: Any) -> float | None:
    if isinstance(x, (int, float)):
        return float(torch.tensor(float(x), dtype=torch.float32))
    if isinstance(x, Value) and x.const is not None and x.const.numel() == 1:
        return float(x.const)
    return None


def _places(
    value: Value, source: Value, memory: dict[Any, Tensor], skip: tuple[Any, ...]
) -> Tensor:
    key = (moves.signature(moves.trail(value, source), source, value), len(skip))
    if key not in memory:
        memory[key] = moves.places_of(value, source, skip)
    return memory[key]


def _table(places: Tensor, heads: int) -> Places:
    """The table behind places (..., rows, depth). Raises: _No where rows do not lie together."""
    rows, depth = places.shape[-2:]
    p = places.reshape(-1, heads, rows, depth)
    table = p[:, 0, :, 0]
    starts = p[0, :, 0, 0] - p[0, 0, 0, 0]
    there = table[:, None, :, None] + starts[None, :, None, None]
    if not torch.equal(p, there + torch.arange(depth, dtype=torch.int32)):
        raise _No("the numbers of a head do not lie side by side, or heads at several distances")
    return Places(starts.long().repeat(p.shape[0]).contiguous(), table.contiguous())


def _scattered(out: Value, heads: int, memory: dict[Any, Tensor]) -> tuple[Value, Places]:
    """The last value to which moves alone carry the result, and where each row of it goes."""
    last, at = out, out
    while True:
        users = at.users
        if len(users) != 1 or not moves.is_move(users[0]) or len(users[0].outs) != 1:
            break
        if len([v for v in users[0].inputs() if v.const is None]) != 1:
            break
        if users[0].out.numel != out.numel or users[0].target == aten.expand.default:
            break
        at = users[0].out
        if not moves.is_view(users[0]):
            last = at
    while last.root is not None:
        last = last.root
    key = ("out", moves.signature(moves.trail(last, out), out, last))
    if key not in memory:
        places = moves.places_of(last, out)
        flat = torch.as_strided(places, (out.numel,), (1,)).long()
        back = torch.empty(out.numel, dtype=torch.int32)
        back[flat] = torch.arange(out.numel, dtype=torch.int32)
        memory[key] = torch.as_strided(back, out.shape, out.stride)
    return last, _table(memory[key], heads)
