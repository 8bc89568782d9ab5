"""Where the values of a program lie: in one block, shared by values that do not live at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitcompress.program.ir import Graph, Value

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
    needed = spans(graph)
    places, total = offsets(needed)
    with torch.inference_mode(False):
        block = torch.empty(total + ALIGN, dtype=torch.uint8)
    skip = -block.data_ptr() % ALIGN
    made = {}
    for span in needed:
        start = skip + places[id(span.value)]
        bytes_ = block[start : start + span.value.numel * span.value.dtype.itemsize]
        flat = bytes_.view(span.value.dtype)
        made[id(span.value)] = torch.as_strided(
            flat, span.value.shape, span.value.stride, flat.storage_offset()
        )
    return made
