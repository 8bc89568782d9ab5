"""What normalize (L2) means between packed layers: float32, one rounding an operation.

Numbers along an axis times 1 / max(length, least). DAT normalises channels over all tokens while
the channels lie side by side: the kernel takes columns as they lie, and adds each up as it would a
row.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.packed.softmax import lane_sum
from bitcompress.packed.tape import noted


def define_unit(x: Tensor, dim: int, least: float) -> Tensor:
    """The definition. The root is taken in float64, as in packed/norm.py.

    Shapes: any float32. Returns: likewise.
    """
    rows = x.movedim(dim, -1)
    length = torch.sqrt(lane_sum(rows * rows).double()).float()
    return x * (1 / torch.clamp(length, min=least)).movedim(-1, dim)


def unit(x: Tensor, dim: int, least: float) -> Tensor:
    """x divided by its length along an axis: the definition, or the native kernel.

    Shapes: any float32 of an axis or more. Returns: likewise, in the same order in memory.
    """
    if native.kernels() is None or not native.takes(x):
        return noted(
            "call",
            partial(define_unit, dim=dim, least=least),
            x,
            lambda: define_unit(x, dim, least),
        )
    return noted("unit", (dim, least), x, lambda: _unit(x, dim, least))


def _unit(x: Tensor, dim: int, least: float) -> Tensor:
    kernels = native.kernels()
    assert kernels is not None
    x = x.detach()
    out = torch.empty_like(x)
    found = unit_views(x, dim, out)
    if found is not None:
        kernels.unit(found[0], found[1], least, found[2], native.threads())
        return out
    dense = x.movedim(dim, -1).contiguous()
    view = dense.view(1, -1, dense.shape[-1])
    kernels.unit(view, False, least, view, native.threads())
    return out.copy_(dense.movedim(-1, dim))


def unit_views(x: Tensor, dim: int, out: Tensor) -> tuple[Tensor, bool, Tensor] | None:
    """x and out as matrices of one shape, and whether columns of them have the length 1.

    None where they do not lie so.
    """
    rows, to = x.movedim(dim, -1), out.movedim(dim, -1)
    for by_column in (False, True):
        mine, theirs = (_matrices(t, by_column) for t in (rows, to))
        if mine is not None and theirs is not None and mine.shape == theirs.shape:
            return mine, by_column, theirs
    return None


def _matrices(x: Tensor, by_column: bool) -> Tensor | None:
    """x (..., N) as (count, rows, columns), rows dense, of the same memory; None where it is not.

    Its last axis is that of a matrix's columns, or with by_column that of its rows.
    """
    n, lead = x.shape[-1], x.shape[:-1]
    if by_column:
        width, axes = 1, len(lead)
        while axes and (lead[axes - 1] == 1 or x.stride(axes - 1) == width):
            axes -= 1
            width *= lead[axes]
        size, stride = (n, width), (x.stride(-1), 1)
    else:
        axes = len(lead)
        pitch = next((x.stride(i) for i in reversed(range(axes)) if lead[i] > 1), n)
        count = 1
        while axes and (lead[axes - 1] == 1 or x.stride(axes - 1) == pitch * count):
            axes -= 1
            count *= lead[axes]
        size, stride = (count, n), (pitch, x.stride(-1) if n > 1 else 1)
    if stride[1] != 1 or (size[0] > 1 and stride[0] < size[1]):
        return None
    outer = [i for i in range(axes) if lead[i] > 1]
    if len(outer) > 1:
        return None
    first = (lead[outer[0]], x.stride(outer[0])) if outer else (1, 0)
    if first[1] < 0:
        return None
    return x.as_strided((first[0], *size), (first[1], *stride))
