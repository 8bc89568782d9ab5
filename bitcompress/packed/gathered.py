"""Attention that finds its operands by tables in larger tensors, and writes its output by one.

Cutting a picture into windows, its shift, the heads side by side in a token, and the way back are
all one table of places for each operand, made once for a picture size. What is computed is
`attention.attend_by_parts` on the gathered matrices; natively all of it is one call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.errors import ShapeError
from bitcompress.packed import definition, ops
from bitcompress.packed.attention import ProductGrids, Term, attend_by_parts
from bitcompress.packed.rows import Rows
from bitcompress.quant.spec import codes_of


class Places(NamedTuple):
    """Where the B matrices of an operand lie in a tensor that is read as one row of elements.

    Row r of matrix b begins at element starts[b] + rows[b // heads, r]; its columns lie side by
    side. Matrices that share a line of `rows` follow each other: the heads of a window.
    Shapes: starts (B,) int64; rows (B / heads, R) int32.
    """

    starts: Tensor
    rows: Tensor

    def elements(self, columns: int) -> Tensor:
        """The place of every element. Shapes: (B, R, columns) int64."""
        heads = len(self.starts) // max(len(self.rows), 1)
        first = self.starts[:, None] + self.rows.long().repeat_interleave(heads, 0)
        return first[..., None] + torch.arange(columns)


class OutGrid(NamedTuple):
    """The grid of whoever reads the output as codes: one, or one for each channel.

    Column c of matrix b is channel (starts[b] + c) modulo the number of grids.
    Shapes: scale, offset (1,) or (channels,).
    """

    scale: Tensor
    offset: Tensor
    bits: int

    def encode(self, y: Tensor, starts: Tensor) -> Tensor:
        """The codes of y (B, M, columns), whose matrices begin at these places."""
        channel = (starts[:, None, None] + torch.arange(y.shape[-1])) % len(self.scale)
        scale, offset = self.scale[channel], self.offset[channel]
        return codes_of(y, scale, offset, (1 << self.bits) - 1).to(torch.uint8)


@dataclass(frozen=True)
class Gathered:
    """An attention but for its tensors.

    Shapes: q, out places of (B, M, ...), k, v of (B, N, ...); grids broadcast against (B, 1, 1);
            the views of terms hold B matrices (..., M, N). Terms do not change from run to run.
    factor: what q is multiplied by before it is cut.
    """

    depth: int
    values: int
    q: Places
    k: Places
    v: Places
    out: Places
    qk: ProductGrids
    av: ProductGrids
    factor: float = 1.0
    terms: tuple[Term, ...] = ()
    out_grid: OutGrid | None = None
    _bound: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def bound(self) -> Any:
        """The native object for the instruction set in use; None where there is none to take it."""
        kernels = native.kernels()
        fits = definition.fits_int32
        if kernels is None or not (
            fits(*self.qk.bits, self.depth) and fits(*self.av.bits, self.k.rows.shape[1])
        ):
            return None
        if kernels.isa() not in self._bound:
            self._bound[kernels.isa()] = _bind(kernels, self)
        return self._bound[kernels.isa()]


def attend_gathered(work: Gathered, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
    """softmax(terms(q k)) v from the places of q, k and v to those of `out`, which is returned.

    q, k, v: float32, or uint8 where they are codes of their grid already. out: float32, or uint8
    with an out_grid. All dense, of any shape; they may be one tensor. What no place names is left.
    Raises: ShapeError where a tensor is too small for its places.
    """
    bound = work.bound()
    if bound is not None and all(t.device.type == "cpu" for t in (q, k, v, out)):
        bound.run(q.detach(), k.detach(), v.detach(), out, native.threads())
        return out
    return attend_gathered_by_parts(work, q, k, v, out)


def attend_gathered_by_parts(
    work: Gathered, q: Tensor, k: Tensor, v: Tensor, out: Tensor
) -> Tensor:
    """The meaning of `attend_gathered`, in plain torch."""
    left = _gather(work.q, q, work.depth)
    if work.factor != 1.0 and left.dtype != torch.uint8:
        left = left * work.factor
    keys, values = _gather(work.k, k, work.depth), _gather(work.v, v, work.values)
    by_row = _rows_by(work.av) if work.av.per_row else None
    y = attend_by_parts(
        left, keys.transpose(-2, -1), values, work.terms,
        _product_by(work.qk), _product_by(work.av), by_row,
    )  # fmt: skip
    places = _checked(work.out, out, work.values)
    out.view(-1)[places] = y if work.out_grid is None else work.out_grid.encode(y, work.out.starts)
    return out


def _checked(places: Places, tensor: Tensor, columns: int) -> Tensor:
    elements = places.elements(columns)
    if elements.numel() and (elements.min() < 0 or elements.max() >= tensor.numel()):
        raise ShapeError(
            f"places from {int(elements.min())} to {int(elements.max())} do not lie in a tensor of "
            f"{tensor.numel()} elements"
        )
    return elements


def _gather(places: Places, tensor: Tensor, columns: int) -> Tensor:
    return tensor.detach().reshape(-1)[_checked(places, tensor, columns)]


def _codes(x: Tensor, grid: tuple[Tensor, Tensor], bits: int) -> Tensor:
    return x if x.dtype == torch.uint8 else ops.encode(x, *grid, bits)


def _each(grid: tuple[Tensor, Tensor], batch: int) -> tuple[Tensor, Tensor]:
    scale, offset = (part.detach().expand(batch, 1, 1).reshape(-1).contiguous() for part in grid)
    return scale, offset


def _product_by(grids: ProductGrids) -> Any:
    def product(a: Tensor, b: Tensor) -> Tensor:
        scale, offset = _each(grids.b, len(b))
        return ops.product_reals(
            _codes(a, grids.a, grids.bits[0]).contiguous(),
            _codes(b, grids.b, grids.bits[1]).transpose(-2, -1).contiguous(),
            grids.bits, _each(grids.a, len(a)), (scale[:, None], offset[:, None]), None,
        )  # fmt: skip

    return product


def _rows_by(grids: ProductGrids) -> Any:
    def product(rows: Rows, b: Tensor) -> Tensor:
        return ops.row_reals(rows, b, grids.a, grids.b, grids.bits)

    return product


def _bind(kernels: Any, work: Gathered) -> Any:
    batch, m, n = len(work.q.starts), work.q.rows.shape[1], work.k.rows.shape[1]
    grids = [_each(grid, batch) for grid in (work.qk.a, work.qk.b, work.av.a, work.av.b)]
    order = (work.q, work.k, work.v, work.out)
    places = [(place.starts.contiguous(), place.rows.contiguous()) for place in order]
    out_grid = work.out_grid and (
        work.out_grid.scale.contiguous(), work.out_grid.offset.contiguous(), work.out_grid.bits
    )  # fmt: skip
    terms = [_distinct(term, batch, m, n) for term in work.terms]
    return kernels.Attention(
        work.depth, work.values, places, grids, [*work.qk.bits, *work.av.bits], work.factor,
        terms, out_grid, work.av.per_row,
    )  # fmt: skip


def _distinct(term: Term, batch: int, m: int, n: int) -> tuple[Tensor, Tensor, Tensor, bool]:
    """The different matrices of a term, which of them each of the batch has, and whether it is +0.

    The windows of a shifted picture have a mask each, of which at most nine differ.
    """
    spread = term.tensor.detach().expand(*term.view[:-2], m, n)
    sizes = zip(spread.shape, spread.stride(), strict=True)
    lead = [1 if step == 0 else size for size, step in sizes]
    few = spread[tuple(slice(0, size) for size in lead[:-2])].reshape(-1, m, n)
    kept: dict[bytes, tuple[int, Tensor]] = {}
    order = []
    for matrix in few:
        content = matrix.contiguous().numpy().tobytes()
        order.append(kept.setdefault(content, (len(kept), matrix))[0])
    matrices = torch.stack([matrix for _, matrix in kept.values()]).contiguous()
    which = torch.tensor(order).view(lead[:-2]).expand(term.view[:-2]).reshape(batch).contiguous()
    zero = (matrices.view(torch.int32) == 0).flatten(1).all(1) & (not term.multiply)
    return matrices, which, zero[which].to(torch.uint8), term.multiply
