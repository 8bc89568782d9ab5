"""Grids whose offset is a whole number of steps: QuantizeLinear and DequantizeLinear say it all.

A packed grid is affine with a real offset; standard operators read `scale (code - zero point)` with
a whole zero point. The nudged grid is the one of those whose levels lie nearest to the packed ones
(least squares, weighted by how often a code stands). Where zero is far outside the grid, or levels
would move too far, the offset stays real, an Add beside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

NARROW = 6
"""From so many bits on half a step is little; at four it costs ten decibels."""
MOST, MOST_NARROW = 0.5, 0.15
"""Steps by which the levels of a nudged grid may lie apart from the packed ones (root mean square);
of fewer bits less: symmetric grids, whose levels are halves, stay as they are."""


def most_steps(bits: int) -> float:
    """By how many steps a grid may move."""
    return MOST if bits >= NARROW else MOST_NARROW


@dataclass
class Nudges:
    """What became of the offsets of a file. moved: the largest move of a nudged grid, in steps."""

    nudged: int = 0
    kept: int = 0
    moved: float = 0.0
    layers: list[str] = field(default_factory=list)

    def note(self, moved: float | None, layer: str) -> None:
        """Count a grid; None is one whose offset stays."""
        if moved is None:
            self.kept += 1
            self.layers.append(layer)
        else:
            self.nudged, self.moved = self.nudged + 1, max(self.moved, moved)

    def said(self, whole: list[dict[str, Any]], metric: dict[str, Any] | None) -> str:
        """What was nudged and what it costs, in a sentence. `whole`, `metric`: rows of the gate."""
        worst = min(row["psnr_db"] for row in whole)
        lost = ""
        if metric is not None:
            change = metric["file_db"] - metric["packed_db"]
            lost = f", and {change:+.3f} dB on a photograph"
        return (
            f"nudged: {self.nudged} of {self.nudged + self.kept} offsets are whole zero points, at "
            f"most {self.moved:.2f} of a step away; that costs: {worst:.1f} dB from packed{lost}"
        )

    def row(self) -> dict[str, Any]:
        """For reports."""
        return {
            "nudged": self.nudged, "kept": self.kept, "most_steps": self.moved,
            "kept_layers": sorted(set(self.layers)),
        }  # fmt: skip


@dataclass(frozen=True)
class Nudged:
    """Grids scale (code - zero). Shapes: scale float32 and zero uint8 as given; moved: in steps."""

    scale: Any
    zero: Any
    moved: float


def nudge(scale: Any, offset: Any, bits: int, counts: Any = None) -> Nudged | None:
    """The grids with whole zero points that lie nearest to grids of `bits` bits.

    Shapes: scale and offset (), (1,) or (G,), equal or one of one; counts (G, 2^bits), or None
    where all levels count alike. Returns: None where a grid would move too far.
    """
    scales, offsets = (np.asarray(a, np.float64).reshape(-1) for a in (scale, offset))
    groups = max(scales.size, offsets.size)
    scales, offsets = (np.broadcast_to(a, (groups,)) for a in (scales, offsets))
    if not (scales > 0).all():
        return None
    levels = np.arange(1 << bits, dtype=np.float64)
    weights = np.ones((groups, levels.size)) if counts is None else counts.astype(np.float64) + 1e-9
    weights = weights / weights.sum(1, keepdims=True)
    reals = offsets[:, None] + scales[:, None] * levels
    best = np.full(groups, np.inf)
    zero, fitted = np.zeros(groups, np.uint8), scales.copy()
    for at in range(1 << bits):
        apart = levels - at
        square = (weights * apart * apart).sum(1)
        made = (weights * reals * apart).sum(1) / np.maximum(square, 1e-30)
        made = made.astype(np.float32).astype(np.float64)
        error = (weights * (reals - made[:, None] * apart) ** 2).sum(1)
        better = (error < best) & (made > 0)
        best, zero = np.where(better, error, best), np.where(better, at, zero).astype(np.uint8)
        fitted = np.where(better, made, fitted)
    moved = float(np.max(np.sqrt(best) / scales))
    if not moved <= most_steps(bits):
        return None
    shape = np.shape(scale) if np.size(scale) == groups else np.shape(offset)
    return Nudged(fitted.astype(np.float32).reshape(shape), zero.reshape(shape), moved)
