"""Native steps bound to their memory: what each kind of fused node runs.

A step whose tensors are all known when the program is made is one call of a bound native run; else
it is bound anew in each run, to what operators of torch have made.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.layers import PackedConv2d
from bitcompress.packed import ops, steps
from bitcompress.packed.attention import ProductGrids, product_arguments
from bitcompress.packed.gathered import Gathered
from bitcompress.packed.group_norm import scale_natively
from bitcompress.packed.layer import native_layer
from bitcompress.packed.pixels import sum_natively
from bitcompress.packed.unit import unit, unit_views
from bitcompress.program.ir import Node
from bitcompress.program.rules.steps import in_axis, out_axis
from bitcompress.program.spec import LayerSpec, RowStep

Slot = tuple[Tensor | None, int]
"""The tensor of a value where it is known before the run, and its place in the table."""
Run = Callable[[int], None]
Make = Callable[[list[Tensor], list[Tensor]], Run]
"""Binds a native run to what it reads and writes."""


def step(node: Node, read: list[Slot], outs: list[Slot]) -> Callable[[list[Any]], None]:
    """The closure of a native node on the table of a program, for the threads set now."""
    make, threads = MAKERS[node.kind](node), native.threads()
    known = [tensor for tensor, _ in (*read, *outs) if tensor is not None]
    if len(known) == len(read) + len(outs):
        run = make(known[: len(read)], known[len(read) :])

        def bound(table: list[Any]) -> None:
            run(threads)

        return bound
    slots = [slot for _, slot in read]
    fresh = [
        (slot, value.shape, value.stride, value.dtype)
        for (tensor, slot), value in zip(outs, node.outs, strict=True)
        if tensor is None
    ]
    places = [slot for _, slot in outs]

    def step_(table: list[Any]) -> None:
        for slot, shape, stride, dtype in fresh:
            table[slot] = torch.empty_strided(shape, stride, dtype=dtype)
        make([table[slot] for slot in slots], [table[slot] for slot in places])(threads)

    return step_


def _kernels() -> ModuleType:
    """The native module: there are no programs without it."""
    kernels = native.kernels()
    assert kernels is not None
    return kernels


def _rows(x: Tensor, axis: int) -> Tensor:
    """A value as rows (R, C) of the same memory."""
    last = x.permute(0, 2, 3, 1) if axis == 1 and x.dim() == 4 else x
    c, pitch = last.shape[-1], _pitch(last)
    return torch.as_strided(last, (last.numel() // c, c), (pitch, 1), last.storage_offset())


def _pitch(x: Tensor) -> int:
    steps_ = [s for s, n in zip(x.stride()[:-1], x.shape[:-1], strict=True) if n > 1]
    return min(steps_, default=x.shape[-1])


def _chain(
    parts: tuple[RowStep, ...], operands: list[Tensor], rows: int, kept: Tensor | None = None
) -> Any:
    """The native chain on so many rows; None for no steps. kept: what a `store` writes."""
    if not parts:
        return None
    made: list[steps.Parts] = []
    for part in parts:
        if part.kind == "norm":
            made.append((steps.NUMBERS["norm"], part.value, part.gain, part.shift, None, 1))
        elif part.kind == "store":
            made.append((steps.NUMBERS["store"], 0.0, None, None, kept, 1))
        elif part.operand > 0:
            x = operands[part.operand]
            x = x.reshape(1, -1) if part.reach == "channel" else x
            each = rows // x.shape[0] if part.reach == "sample" else 1
            made.append((steps.NUMBERS[part.kind], 0.0, x, part.shift, None, each))
        else:
            made.append((steps.NUMBERS[part.kind], part.value, None, None, None, 1))
    return _kernels().Chain(made)


def _layer(node: Node) -> Make:
    spec: LayerSpec = node.target
    x_axis, to_axis = in_axis(node), out_axis(node)
    grid = spec.codes_out
    parts = None if grid is None else (grid.scale, grid.offset, grid.top)
    kernels = _kernels()
    if spec.module is None:

        def rows(read: list[Tensor], outs: list[Tensor]) -> Run:
            kept = _rows(outs[0], to_axis)
            x, to = _rows(read[0], x_axis), _rows(outs[-1], to_axis)
            chain = _chain((*spec.head, *spec.tail), read, len(x), kept)
            return kernels.Rows(chain, x, to, parts)  # type: ignore[no-any-return]

        return rows
    module = spec.module

    held = native_layer(module, torch.empty(1), module._weights)

    def layer(read: list[Tensor], outs: list[Tensor]) -> Run:
        x, to = _rows(read[0], x_axis), _rows(outs[-1], to_axis)
        kept = _rows(outs[0], to_axis)
        head = _chain(spec.head, read, len(x))
        tail = _chain(spec.tail, read, len(to) // max(1, spec.shuffle) ** 2, kept)
        if isinstance(module, PackedConv2d):
            x = read[0].permute(0, 2, 3, 1)
            to = _pictures(to, _size(module, read[0], spec.shuffle))
        return kernels.LayerRun(  # type: ignore[no-any-return]
            held, x, to, head, tail, parts, False, False, max(1, spec.shuffle),
        )  # fmt: skip

    return layer


def _size(module: PackedConv2d, x: Tensor, shuffle: int) -> tuple[int, int, int]:
    """Images, height and width of what a convolution gives."""
    g, weight = module.geometry, module.weight_shape
    height, width = ops.conv2d_size(x.shape, weight, g.stride, g.padding, g.dilation)
    r = max(1, shuffle)
    return x.shape[0], height * r, width * r


def _pictures(rows: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Rows of pixels as pictures (N, H, W, C)."""
    n, h, w = size
    c, pitch = rows.shape[1], rows.stride(0)
    strides = (h * w * pitch, w * pitch, pitch, 1)
    return torch.as_strided(rows, (n, h, w, c), strides, rows.storage_offset())


def _relayout(node: Node) -> Make:
    def make(read: list[Tensor], outs: list[Tensor]) -> Run:
        return copier(read[0], outs[0])

    return make


def copier(x: Tensor, out: Tensor) -> Run:
    """A copy from one layout to another, by turned matrices where it is one."""
    kernels, turned = _kernels(), _as_turn(x, out)

    def run(threads: int) -> None:
        if turned is None:
            out.copy_(x)
        else:
            kernels.turn(*turned, threads)

    return run


def _as_turn(x: Tensor, out: Tensor) -> tuple[Tensor, Tensor] | None:
    """x and out as matrices (count, R, C) and (count, C, R), where a copy only turns them."""
    if x.dtype != torch.float32 or out.dtype != torch.float32:
        return None
    axes = zip(x.shape, x.stride(), out.stride(), strict=True)
    merged: list[tuple[int, int, int]] = []
    for size, mine, theirs in sorted((a for a in axes if a[0] > 1), key=lambda a: (-a[2], -a[1])):
        if merged and merged[-1][1:] == (mine * size, theirs * size):
            merged[-1] = (merged[-1][0] * size, mine, theirs)
        else:
            merged.append((size, mine, theirs))
    columns = next((axis for axis in merged if axis[1] == 1), None)
    rows = next((axis for axis in merged if axis[2] == 1), None)
    if columns is None or rows is None or columns is rows or len(merged) > 3:
        return None
    if rows[1] < columns[0] or columns[2] < rows[0]:
        return None
    rest = [axis for axis in merged if axis is not columns and axis is not rows]
    count, next_, out_next = rest[0] if rest else (1, 0, 0)
    return (
        x.as_strided((count, rows[0], columns[0]), (next_, rows[1], 1), x.storage_offset()),
        out.as_strided(
            (count, columns[0], rows[0]), (out_next, columns[2], 1), out.storage_offset()
        ),
    )


def _multiply(node: Node) -> Make:
    grids: ProductGrids = node.target
    kernels = _kernels()

    def make(read: list[Tensor], outs: list[Tensor]) -> Run:
        told = product_arguments(read[0], read[1], grids, outs[0])
        return kernels.Multiply(*told, grids.per_row).run  # type: ignore[no-any-return]

    return make


def _unit(node: Node) -> Make:
    dim, least = node.target
    kernels = _kernels()

    def make(read: list[Tensor], outs: list[Tensor]) -> Run:
        found = unit_views(read[0], dim, outs[0])

        def run(threads: int) -> None:
            if found is None:
                outs[0].copy_(unit(read[0], dim, least))
            else:
                kernels.unit(found[0], found[1], least, found[2], threads)

        return run

    return make


def _attention(node: Node) -> Make:
    work: Gathered = node.target

    def make(read: list[Tensor], outs: list[Tensor]) -> Run:
        held = work.bound()
        q, k, v, to = (_flat(x) for x in (*read, *outs))

        def run(threads: int) -> None:
            held.run(q, k, v, to, threads)

        return run

    return make


def _flat(x: Tensor) -> Tensor:
    """The memory of a tensor without gaps, in order."""
    return torch.as_strided(x, (x.numel(),), (1,), x.storage_offset())


def _pixels(node: Node) -> Make:
    kind = node.kind

    def make(read: list[Tensor], outs: list[Tensor]) -> Run:
        def run(threads: int) -> None:
            sum_natively(kind, read, outs[0], threads)

        return run

    return make


def _group_scales(node: Node) -> Make:
    groups, gain, shift, eps = node.target

    def make(read: list[Tensor], outs: list[Tensor]) -> Run:
        def run(threads: int) -> None:
            scale_natively(read[0], groups, gain, shift, eps, outs[0], outs[1], threads)

        return run

    return make


def _hold(node: Node) -> Make:
    def make(read: list[Tensor], outs: list[Tensor]) -> Run:
        def run(threads: int) -> None:
            outs[0].copy_(read[0])

        return run

    return make


MAKERS: dict[str, Callable[[Node], Make]] = {
    "layer": _layer,
    "relayout": _relayout,
    "attention": _attention,
    "multiply": _multiply,
    "unit": _unit,
    "pixel_mean": _pixels,
    "pixel_deviation": _pixels,
    "group_scales": _group_scales,
    "hold": _hold,
}
"""How each kind of native node is bound."""
