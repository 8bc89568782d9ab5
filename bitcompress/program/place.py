"""Where the values of a program lie: in one block, shared by values that do not live at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitcompress.program.ir import Graph, Node, Value
from bitcompress.program.spec import LayerSpec

ALIGN = 64
NATIVE = (
    "layer", "attention", "relayout", "multiply", "unit", "pixel_mean", "pixel_deviation",
    "group_scales", "hold",
)  # fmt: skip
"""Kinds of nodes that write where they are told."""


@dataclass(frozen=True)
class Span:
    """A value's bytes, and the first and last step that needs them."""

    value: Value
    size: int
    first: int
    last: int


def spans(graph: Graph) -> list[Span]:
    """The values that native steps write and nobody outside of the run keeps."""
    last: dict[int, int] = {}
    for place, node in enumerate(graph.nodes):
        for value in node.inputs():
            last[id(value.owner)] = place
    made = [
        (place, out)
        for place, node in enumerate(graph.nodes)
        if node.kind in NATIVE
        for out in node.outs
        if out.root is None and not graph.is_output(out)
    ]
    return [Span(out, _size(out), place, last.get(id(out), place)) for place, out in made]


def in_place(graph: Graph, needed: Iterable[Span]) -> tuple[list[Span], dict[int, Value]]:
    """Let a layer write its sums over what it adds to, where nobody reads that again.

    A residual stream stays in the same memory then, and in the cache, from block to block.
    Returns: the spans that are left, and for each value that has none of its own whose it has.
    """
    found = {id(span.value): span for span in needed}
    whose: dict[int, Value] = {}
    for place, node in enumerate(graph.nodes):
        out = node.outs[0] if node.outs else None
        span = None if out is None else found.get(id(out))
        if out is None or span is None or node.kind != "layer":
            continue
        for x in _written_over(node, out):
            owner = whose.get(id(x), x)
            held = found.get(id(owner))
            if held is not None and held.last == place and held.size == span.size:
                found[id(owner)] = Span(owner, held.size, held.first, span.last)
                del found[id(out)]
                whose[id(out)] = owner
                break
    return list(found.values()), whose


def _written_over(node: Node, out: Value) -> list[Value]:
    """Whose memory the reals of a layer could have: row by row what its tail reads before them."""
    spec: LayerSpec = node.target
    if spec is None or spec.shuffle or out.dtype != torch.float32:
        return []
    reals = next((i for i, s in enumerate(spec.tail) if s.kind == "store"), len(spec.tail))
    owners = [value.owner for value in node.args]
    return [
        x.owner
        for step in spec.tail[:reals]
        if step.operand > 0 and step.reach == "whole"
        for x in (node.args[step.operand],)
        if sum(owner is x.owner for owner in owners) == 1
        and x.dtype == x.owner.dtype == torch.float32
        and x.offset == 0
        and x.numel == x.owner.numel == out.numel
        and x.stride == (x.shape[-1], 1)
        and _rows_alike(out, x.shape[-1])
    ]


def _rows_alike(out: Value, channels: int) -> bool:
    """Whether the rows of an output lie one behind the other, so many channels each."""
    step = channels
    sizes = [(s, n) for s, n in zip(out.stride, out.shape, strict=True) if n > 1 and s != 1]
    for stride, size in sorted(sizes):
        if stride != step:
            return False
        step *= size
    return step == out.numel


def _size(value: Value) -> int:
    """Bytes, in whole lines of the cache."""
    return -(-value.numel * value.dtype.itemsize // ALIGN) * ALIGN


def offsets(needed: Iterable[Span]) -> tuple[dict[int, int], int]:
    """A place for each span, by the identity of its value, and the bytes of all; largest first."""
    placed: list[tuple[Span, int]] = []
    for span in sorted(needed, key=lambda s: -s.size):
        at = 0
        beside = sorted(
            (start, start + other.size)
            for other, start in placed
            if other.first <= span.last and span.first <= other.last
        )
        for start, end in beside:
            if at + span.size <= start:
                break
            at = max(at, end)
        placed.append((span, at))
    total = max((start + span.size for span, start in placed), default=0)
    return {id(span.value): start for span, start in placed}, total


def arena(graph: Graph) -> dict[int, Tensor]:
    """Tensors for all values of `spans`, by the identity of the value."""
    needed, whose = in_place(graph, spans(graph))
    places, total = offsets(needed)
    with torch.inference_mode(False):
        block = torch.empty(total + ALIGN, dtype=torch.uint8)
    skip = -block.data_ptr() % ALIGN
    made = {}
    for span in spans(graph):
        value = span.value
        start = skip + places[id(whose.get(id(value), value))]
        flat = block[start : start + value.numel * value.dtype.itemsize].view(value.dtype)
        made[id(value)] = torch.as_strided(flat, value.shape, value.stride, flat.storage_offset())
    return made
