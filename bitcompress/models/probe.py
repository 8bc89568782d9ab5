"""What a network of somebody's own does with a picture, told by one small run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

SIDES = ((48, 64), (64, 64))
"""Heights and widths that are tried; many networks of windows take the second alone."""


def picture_scale(model: nn.Module) -> int | None:
    """How many times larger a network makes pictures; None where it does not make them larger.

    The network runs in eval mode, which it keeps, and draws no random numbers of the caller's.
    """
    model.eval()
    for height, width in SIDES:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            x = torch.rand(1, 3, height, width)
            try:
                made = model(x)
            except Exception:  # any code may fail in any way on what it was not made for
                continue
        found = _ratio(x, made)
        if found is not None:
            return found
    return None


def _ratio(x: Tensor, made: object) -> int | None:
    """Output size over input size, where it is whole, alike in both axes and above 1."""
    if isinstance(made, Mapping) and len(made) == 1:
        made = next(iter(made.values()))
    if isinstance(made, tuple | list) and len(made) == 1:
        made = made[0]
    if not isinstance(made, Tensor) or made.shape[:2] != x.shape[:2] or made.dim() != 4:
        return None
    ratio = whole_ratio(x.shape[2:], made.shape[2:])
    return ratio if ratio != 1 else None


def whole_ratio(before: Sequence[int], after: Sequence[int]) -> int | None:
    """How many times larger the sides after are; None where that is not whole or not alike."""
    ratio = after[0] // before[0]
    whole = ratio >= 1 and all(b == ratio * a for a, b in zip(before, after, strict=True))
    return ratio if whole else None
