"""A histogram that grows with its data: what is kept of an activation while batches stream by.

Equal bins between two edges; a number beyond an edge doubles the range on that side, neighbours
merged in pairs. Memory is the same after one batch and after a thousand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.calibrate.atoms import Atoms
from bitcompress.quant.spec import QuantSpec, in_groups

BINS = 4096


class Histogram:
    """Counts of a stream of tensors, one row of bins a grid of `spec`."""

    def __init__(self, spec: QuantSpec, groups: int) -> None:
        self.spec, self.groups = spec, groups
        self.counts = torch.zeros(groups, BINS, dtype=torch.int64)
        self.left: Tensor | None = None
        self.right = torch.zeros(groups)
        self.low = torch.full((groups,), float("inf"))
        self.high = torch.full((groups,), float("-inf"))

    def add(self, x: Tensor) -> None:
        """Count a tensor. Shapes: x any, finite, with `groups` entries along the spec's axis."""
        rows = self._rows(x)
        low, high = _extremes(rows)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        if self.left is None:
            # Wide enough that float32 tells both edges of a constant apart: no width may be 0.
            size = torch.maximum(low.abs(), high.abs()) * 1e-5
            margin = torch.maximum((high - low) * 0.01, size).clamp(min=1e-10)
            self.left, self.right = low - margin, high + margin
        for g in range(self.groups):
            self._cover(g, float(low[g]), float(high[g]))
        _count(rows, self.left.contiguous(), self.right.contiguous(), self.counts)

    def _rows(self, x: Tensor) -> Tensor:
        """x as (outer, groups, inner), contiguous."""
        return x.detach().float().contiguous().view(in_groups(x.shape, self.spec.axis))

    def _cover(self, g: int, low: float, high: float) -> None:
        assert self.left is not None
        while low < self.left[g] or high > self.right[g]:
            width = self.right[g] - self.left[g]
            merged = self.counts[g].view(-1, 2).sum(1)
            self.counts[g] = 0
            if low < self.left[g]:
                self.counts[g, BINS // 2 :] = merged
                self.left[g] -= width
            else:
                self.counts[g, : BINS // 2] = merged
                self.right[g] += width

    def atoms(self) -> Atoms:
        """The bins as atoms at their centres, clipped to the true extremes."""
        assert self.left is not None
        left, right = self.left.double()[:, None], self.right.double()[:, None]
        centres = left + (torch.arange(BINS, dtype=torch.float64) + 0.5) * ((right - left) / BINS)
        low, high = self.low.double(), self.high.double()
        centres = torch.minimum(torch.maximum(centres, low[:, None]), high[:, None])
        return Atoms(centres, self.counts.double(), low, high)

    def merge(self, other: Histogram) -> None:
        """Add what another process counted, so that statistics reduce across processes."""
        if other.left is None:
            return
        atoms = other.atoms()
        if self.left is None:
            self.left, self.right = other.left.clone(), other.right.clone()
        self.low = torch.minimum(self.low, other.low)
        self.high = torch.maximum(self.high, other.high)
        for g in range(self.groups):
            self._cover(g, float(other.low[g]), float(other.high[g]))
            place = (atoms.values[g] - self.left[g]) / (self.right[g] - self.left[g]) * BINS
            self.counts[g].index_add_(0, place.long().clamp(0, BINS - 1), other.counts[g])


def _extremes(rows: Tensor) -> tuple[Tensor, Tensor]:
    low, high = rows.amin((0, 2)), rows.amax((0, 2))
    return low, high


def _count(rows: Tensor, left: Tensor, right: Tensor, counts: Tensor) -> None:
    """Add the numbers of (outer, groups, inner) to the bins of their group."""
    kernels = native.kernels()
    if kernels is not None and native.takes(rows):
        kernels.histogram(rows, left, right, counts)
        return
    for g in range(rows.shape[1]):
        low, high = float(left[g]), float(right[g])
        counts[g] += torch.histc(rows[:, g], BINS, low, high).long()
