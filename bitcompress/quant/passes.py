"""Signs and their surrogate gradients in one pass over memory: the native twins of `sign.py`.

In training a sign touches every activation several times in torch; memory, not arithmetic, is the
price. The kernels read and write each number once. They take float32 on the CPU whose channels lie
side by side, as pictures in channels_last and tokens do; all else goes the way of `sign.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitcompress import native

WINDOWS = {"ste": True, "approx": False}
"""The surrogates that kernels know: whether they are 1 inside of (-1, 1), or a tent."""
TYPES = (torch.float32, torch.bfloat16)


def rows(x: Tensor, axis: int) -> Tensor | None:
    """x as (samples, places, C), a view, or None where its channels do not lie side by side."""
    if axis == 1:
        if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
            return None
        n, c, height, width = x.shape
        return x.permute(0, 2, 3, 1).reshape(n, height * width, c)
    return x.reshape(1, -1, x.shape[-1]) if x.is_contiguous() else None


def raw(x: Tensor) -> Tensor:
    """What the kernels read: bfloat16 as int16."""
    x = x.detach()
    return x.view(torch.int16) if x.dtype == torch.bfloat16 else x


class Runs:
    """x as rows that share the numbers of a table: each sample's own, or one for all.

    of is None where the kernels cannot take it.
    """

    def __init__(self, x: Tensor, *tables: Tensor | None) -> None:
        self.of: Tensor | None = None
        self.tables: list[Tensor] = []
        given = [t.detach() for t in tables if t is not None]
        if native.kernels() is None or native.is_traced() or not native.takes(x):
            return
        if not given or len(given) != len(tables):
            return
        self.axis = 1 if given[0].dim() == 4 else -1
        whole = rows(x.detach(), self.axis)
        many = [self._many(t, x, self.axis) for t in given]
        if whole is None or None in many:
            return
        apart = max(t.shape[0] for t in many if t is not None) > 1
        self.of = whole if apart else whole.reshape(1, -1, whole.shape[2])
        self.tables = [
            t.expand(self.of.shape[0], -1).to(torch.float32) for t in many if t is not None
        ]

    @staticmethod
    def _many(table: Tensor, x: Tensor, axis: int) -> Tensor | None:
        """A table as (samples or 1, C)."""
        channels = x.shape[axis]
        if axis == 1:
            fits = table.dim() == 4 and table.shape[1:] == (channels, 1, 1)
            return table.reshape(-1, channels) if fits and len(table) in (1, len(x)) else None
        return table[None] if table.shape == (channels,) else None

    def like(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Room for a result like x, and the same as rows."""
        assert self.of is not None
        out = torch.empty_like(x, dtype=dtype)
        there = rows(out, self.axis)
        assert there is not None
        return out, there.reshape(self.of.shape)


def cut(x: Tensor, theta: Tensor, dtype: torch.dtype) -> Tensor | None:
    """+1 where x >= theta, else -1; None where the kernels do not take it.

    Shapes: x (N, C, H, W) with theta (1 or N, C, 1, 1), or x (..., C) with theta (C,).
    """
    runs, kernels = Runs(x, theta), native.kernels()
    if runs.of is None or kernels is None or dtype not in TYPES:
        return None
    out, to = runs.like(x, dtype)
    table = runs.tables[0][:, None].contiguous()
    kernels.learn_cut(runs.of, table, raw(to), native.threads())
    return out


def cut_backward(
    x: Tensor, grad: Tensor, gain: Tensor | None, shift: Tensor, kind: str
) -> tuple[Tensor, Tensor] | None:
    """Gradients of x and shift through the surrogate; None where the kernels do not take it.

    Shapes: as of `cut`; grad like x; gain like shift, or None for 1.
    """
    kernels = native.kernels()
    runs = Runs(x, shift, torch.ones_like(shift) if gain is None else gain)
    if runs.of is None or kernels is None or kind not in WINDOWS or grad.dtype not in TYPES:
        return None
    axis = 1 if shift.dim() == 4 else -1
    layout = torch.channels_last if axis == 1 else torch.contiguous_format
    given = rows(grad.contiguous(memory_format=layout), axis)
    assert given is not None
    out, to = runs.like(x, torch.float32)
    tables = torch.stack([runs.tables[1], runs.tables[0]], 1)
    sums = torch.empty_like(tables[:, :1])
    kernels.learn_cut_back(
        runs.of, raw(given.reshape(runs.of.shape)), tables, WINDOWS[kind], to, sums,
        native.threads(),
    )  # fmt: skip
    each = axis == 1 and len(shift) > 1
    return out, sums.sum(1) if each else sums.sum((0, 1))
