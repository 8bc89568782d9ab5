"""Plain bound searches: the extremes, a percentile, the sign, the least squared error."""

from __future__ import annotations

import torch
from torch import Tensor

from bitcompress.calibrate.atoms import Atoms, squared_error
from bitcompress.quant.spec import Bounds, QuantSpec


def minmax(atoms: Atoms, spec: QuantSpec, producer: str = "") -> Bounds:
    """The smallest and the largest number seen."""
    return Bounds(atoms.low.float(), atoms.high.float())


def percentile(
    atoms: Atoms, spec: QuantSpec, producer: str = "", *, share: float = 0.999
) -> Bounds:
    """The bounds that leave (1 - share) / 2 of the numbers outside on each side."""
    tail = (1 - share) / 2
    lower, upper = atoms.quantile(tail), atoms.quantile(1 - tail)
    return Bounds(lower.float(), upper.float())


def sign(atoms: Atoms, spec: QuantSpec, producer: str = "") -> Bounds:
    """One bit: the side of the mean, at the mean distance from it.

    The grid is c - a, c + a with c the mean and a the mean of |x - c|; of all a that is the one of
    least squared error for x split at c in equal halves.
    Source: XNOR-Net (Rastegari et al. 2016), equation 6, a = mean |w|; weights are not centred
    there, activations are cut at 0. Deviation: both are cut at their mean, without which what
    follows a ReLU would be one code throughout. Grids of more bits take the extremes.
    """
    if spec.bits > 1:
        return minmax(atoms, spec, producer)
    total = atoms.counts.sum(1)
    centre = (atoms.counts * atoms.values).sum(1) / total
    away = (atoms.counts * (atoms.values - centre[:, None]).abs()).sum(1) / total
    return Bounds((centre - away).float(), (centre + away).float())


def mse(atoms: Atoms, spec: QuantSpec, producer: str = "", *, rounds: int = 4) -> Bounds:
    """Both bounds free: the grid of least squared error, found by coordinate descent.

    Each round tries 48 places of one bound with the other held, then narrows the reach. The start
    is the cheaper of DOBI's two sides, so the result is never worse than DOBI or the extremes.
    """
    from bitcompress.calibrate.dobi import dobi  # dobi builds on the same costs

    start = dobi(atoms, spec, producer)
    lower, upper = start.lower.double(), start.upper.double()
    reach = (atoms.high - atoms.low) / 4
    best = squared_error(atoms, lower[:, None], upper[:, None], spec.bits)[:, 0]
    offsets = torch.linspace(-1, 1, 49, dtype=torch.float64)
    for _ in range(rounds):
        for side in (0, 1):
            moved = (lower, upper)[side][:, None] + offsets * reach[:, None]
            low = moved if side == 0 else lower[:, None].expand_as(moved)
            high = moved if side == 1 else upper[:, None].expand_as(moved)
            lower, upper, best = _take_best(atoms, low, high, spec, (lower, upper, best))
        reach = reach / 3
    return Bounds(lower.float(), upper.float())


def _take_best(
    atoms: Atoms, low: Tensor, high: Tensor, spec: QuantSpec, known: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The cheapest candidate of each row, or what was known where none is cheaper."""
    lower, upper, best = known
    valid = high > low
    cost = squared_error(atoms, low, torch.where(valid, high, low + 1.0), spec.bits)
    cost = torch.where(valid, cost, torch.inf)
    value, index = cost.min(1)
    better = value < best
    picked = index[:, None]
    return (
        torch.where(better, low.gather(1, picked)[:, 0], lower),
        torch.where(better, high.gather(1, picked)[:, 0], upper),
        torch.minimum(value, best),
    )
