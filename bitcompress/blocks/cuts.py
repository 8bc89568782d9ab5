"""Where blocks cut at first: thresholds and input gains from what their inputs are.

A threshold at the median of a channel splits it evenly. Where more than half of a channel is one
number, as behind a ReLU, that number is the median and everything lies on one side of it: then the
mean is taken. The input gain is a power of two, so it folds exactly into the threshold; it brings
what is cut to about [-1, 1], where a surrogate has gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitcompress.layers.binary import DAB, BinaryBlock

MOST = 1 << 14
"""Numbers of a channel that are looked at."""
LOPSIDED = 0.95
"""A cut that leaves more than this share of a channel on one side says nothing."""
APART = 2
"""A channel's gain is at most so many powers of two away from that of the whole input."""
FAR = 40
"""The largest exponent of a gain."""


def by_channel(x: Tensor, axis: int, most: int = MOST) -> Tensor:
    """Up to `most` numbers of each channel, evenly picked. Returns: (C, M)."""
    rows = x.detach().movedim(axis, 0).flatten(1).float()
    step = -(-rows.shape[1] // most)
    return rows[:, ::step]


def settle_cut(block: BinaryBlock, x: Tensor, *, trained: bool) -> None:
    """Give a block the threshold and the input gain that suit what it is given.

    Shapes: x as the block takes it. From scratch, thresholds stay at 0 and channels share one gain.
    """
    threshold, seen = block.threshold, by_channel(opened(block, x), block.axis)
    theta = _theta(seen) if trained else torch.zeros(len(seen), device=seen.device)
    if trained and not learns(block):
        theta = torch.where(_lopsided(seen, torch.zeros_like(theta)), theta, 0.0)
    spread = (seen - theta[:, None]).abs().mean(1)
    gain = _gain(spread, shared=not trained)
    with torch.no_grad():
        threshold.gain.copy_(gain)
        if not trained:
            return
        if isinstance(threshold, DAB):
            # Its threshold moves with the mean of each picture already.
            moved = threshold.slope * (gain * seen.mean(1))
            threshold.bias.copy_(theta * gain - moved)
        else:
            threshold.bias.copy_((-theta * gain)[None])


def opened(block: BinaryBlock, x: Tensor) -> Tensor:
    """What a block is given with a batch axis, and lines as pictures."""
    return x if block.axis == -1 else block.core.geometry.opened(x)


def learns(block: BinaryBlock) -> bool:
    """Whether a block learns its threshold; one that does not keeps 0 wherever 0 says something."""
    return block.threshold.bias.requires_grad


def _theta(seen: Tensor) -> Tensor:
    """A threshold for each channel. Shapes: (C, M) -> (C,)."""
    median = seen.median(1).values
    # Half way to the next number below, which is on the other side: what was seen lies on neither
    # edge, where a last bit that another machine rounds otherwise would turn its sign.
    below = torch.where(seen < median[:, None], seen, -torch.inf).amax(1)
    middle = median / 2 + below / 2
    theta = torch.where(torch.isfinite(below) & (middle > below), middle, median)
    return torch.where(_lopsided(seen, median), seen.mean(1), theta)


def _lopsided(seen: Tensor, theta: Tensor) -> Tensor:
    share = (seen >= theta[:, None]).float().mean(1)
    return (share > LOPSIDED) | (share < 1 - LOPSIDED)


def _gain(spread: Tensor, *, shared: bool) -> Tensor:
    """Powers of two that bring deviations to about 1. Shapes: (C,) -> (C,)."""
    whole = spread.mean()
    if not bool(torch.isfinite(whole)) or float(whole) == 0.0:
        return torch.ones_like(spread)
    middle = -torch.log2(whole)
    near = torch.zeros_like(spread)
    if not shared:
        near = (whole / spread.clamp(min=1e-30)).log2().clamp(-APART, APART)
    # Half of the mean deviation's window is left for tails: [-1, 1] holds most of a channel.
    return torch.exp2((middle + near).round().clamp(-FAR, FAR))
