"""Attention on codes in one pass: logits, terms, softmax and values of a few queries at a time.

The meaning is the two packed products with `softmax.softmax` between them, or the exponentials of
`rows.softmax_rows`; the native kernel never writes the logits to memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.packed import definition, ops
from bitcompress.packed.layer import watched
from bitcompress.packed.rows import Rows, softmax_rows
from bitcompress.packed.softmax import softmax
from bitcompress.packed.tape import recorder


class Term(NamedTuple):
    """What happens to the logits before the softmax: + or * a tensor, in some view of them.

    `view` has the axes of queries and keys last; its other axes hold as many matrices as the
    logits have, in the same order.
    """

    tensor: Tensor
    multiply: bool
    view: tuple[int, ...]

    def apply(self, logits: Tensor) -> Tensor:
        """The logits, in the view of the term."""
        x = logits.reshape(self.view)
        return x * self.tensor if self.multiply else x + self.tensor


@dataclass(frozen=True)
class LengthRule:
    """How the grids of both operands follow the length of the sum (quant/length.py)."""

    per_length: tuple[bool, bool]
    shortest: tuple[int, int]


@dataclass(frozen=True)
class ProductGrids:
    """The grids of both operands of a product, which broadcast against (..., 1, 1).

    per_row: a holds attention weights, cut relative to the largest of their row (packed/rows.py).
    rule: what is still to be done to the grids where the length is no number yet; None else.
    """

    a: tuple[Tensor, Tensor]
    b: tuple[Tensor, Tensor]
    bits: tuple[int, int]
    per_row: bool = False
    rule: LengthRule | None = None


@dataclass(frozen=True)
class AttendSpec:
    """An attention as one step of a recorded run, but for its tensors: q, k, v, those of terms."""

    views: tuple[tuple[int, ...], ...]
    multiplies: tuple[bool, ...]
    qk: ProductGrids
    av: ProductGrids


Product = Callable[[Tensor, Tensor], Tensor]
RowProduct = Callable[[Rows, Tensor], Tensor]


def attend_by_parts(
    q: Tensor, k: Tensor, v: Tensor, terms: Sequence[Term],
    qk: Product, av: Product, by_row: RowProduct | None = None,
) -> Tensor:  # fmt: skip
    """The meaning of `attend`: the products may be packed, or simulated in float64.

    Shapes: q (..., M, K), k (..., K, N), v (..., N, V); `by_row` in place of `av` takes the weights
    as rows. Returns: (..., M, V).
    """
    logits = qk(q, k)
    shape = logits.shape
    for term in terms:
        logits = term.apply(logits)
    logits = logits.reshape(shape)
    return av(softmax(logits), v) if by_row is None else by_row(softmax_rows(logits), v)


def attend(
    q: Tensor, k: Tensor, v: Tensor, terms: Sequence[Term], qk: ProductGrids, av: ProductGrids
) -> Tensor:
    """softmax(terms(q k)) v with all four operands cut into codes at run time.

    Shapes: q (..., M, K), k (..., K, N), v (..., N, V) float32, leading sizes equal.
    Returns: (..., M, V).
    """
    found = recorder()
    if found is not None:
        recorded = AttendSpec(
            tuple(t.view for t in terms), tuple(t.multiply for t in terms), qk, av
        )
        inputs = (q, k, v, *(term.tensor for term in terms))
        return found.step("attend", recorded, inputs, lambda: attend(q, k, v, terms, qk, av))
    kernels = native.kernels() if all(map(native.takes, (q, k, v))) else None
    fits = definition.fits_int32
    if kernels is None or not (fits(*qk.bits, q.shape[-1]) and fits(*av.bits, k.shape[-1])):
        by_row = _row_product(av) if av.per_row else None
        return attend_by_parts(q, k, v, terms, _product(qk), _product(av), by_row)
    lead, (m, n) = q.shape[:-2], (q.shape[-2], k.shape[-1])
    out = torch.empty(*lead, m, v.shape[-1])
    grids = [_each(grid, lead) for grid in (qk.a, qk.b, av.a, av.b)]
    kernels.attend(
        _matrices(q), _matrices(k.transpose(-2, -1)), _matrices(v), grids, [*qk.bits, *av.bits],
        [(_spread(term, m, n), term.multiply) for term in terms],
        out.view(-1, m, v.shape[-1]), native.threads(), av.per_row,
    )  # fmt: skip
    return out


def multiply(a: Tensor, b: Tensor, grids: ProductGrids) -> Tensor:
    """ops.matmul, straight through the native kernel where plain tensors are all there is.

    Shapes: a (..., M, K), b (..., K, N), leading sizes equal. Returns: (..., M, N).
    """
    found, kernels = recorder(), native.kernels()
    if found is not None and native.is_traced():
        return found.step("multiply", grids, (a, b), lambda: _product(grids)(a, b))
    same = a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2]
    takes = native.takes(a) and native.takes(b) and same
    fits = kernels is not None and takes and definition.fits_int32(*grids.bits, a.shape[-1])
    if found is not None:
        how = partial(multiply, grids=grids)
        kind, target = ("multiply", grids) if fits else ("call", how)
        return found.step(kind, target, (a, b), lambda: how(a, b))
    if kernels is None or not fits or watched(a) or watched(b):
        return _product(grids)(a, b)
    lead, m, n = a.shape[:-2], a.shape[-2], b.shape[-1]
    out = torch.empty(*lead, m, n)
    kernels.multiply(*product_arguments(a, b, grids, out), native.threads(), grids.per_row)
    return out


def product_arguments(a: Tensor, b: Tensor, grids: ProductGrids, out: Tensor) -> tuple[Any, ...]:
    """What the native kernels are told of a product; `out` may have any strides."""
    lead, (a, b, out) = a.shape[:-2], (x.detach() for x in (a, b.transpose(-2, -1), out))
    if not lead:
        a, b, out = a[None], b[None], out[None]
    return a, b, _each(grids.a, lead), _each(grids.b, lead), grids.bits, out


def _product(grids: ProductGrids) -> Product:
    def product(a: Tensor, b: Tensor) -> Tensor:
        y: Tensor = ops.matmul(a, b, *grids.a, *grids.b, *grids.bits, grids.per_row)
        return y

    return product


def _row_product(grids: ProductGrids) -> RowProduct:
    def product(rows: Rows, b: Tensor) -> Tensor:
        return ops.row_reals(rows, b, grids.a, grids.b, grids.bits)

    return product


def _matrices(x: Tensor) -> Tensor:
    """x with one leading axis; a copy only where the others cannot be one."""
    x = x.detach()
    return x if x.dim() == 3 else x.reshape(-1, *x.shape[-2:])


def _each(grid: tuple[Tensor, Tensor], lead: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Scale and offset of each matrix of a batch."""
    scale, offset = (part.detach().expand(*lead, 1, 1).reshape(-1).contiguous() for part in grid)
    return scale, offset


def _spread(term: Term, m: int, n: int) -> Tensor:
    """The term as a view of all matrices."""
    return term.tensor.detach().expand(*term.view[:-2], m, n)
