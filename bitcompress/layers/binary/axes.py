"""Where the channels are: axis 1 of pictures, the last axis of tokens."""

from __future__ import annotations

from torch import Tensor

PICTURES, TOKENS = 1, -1


def along(values: Tensor, dim: int, axis: int) -> Tensor:
    """Numbers a channel (C,), or a sample and channel (N, C), shaped against a `dim`-D tensor."""
    rest = dim - 1 if axis == PICTURES else dim
    if values.dim() == 1:
        return values.view(1, -1, *[1] * (dim - 2)) if axis == PICTURES else values
    if axis == PICTURES:
        return values.view(*values.shape, *[1] * (rest - 1))
    return values.view(values.shape[0], *[1] * (dim - 2), values.shape[1])


def over_places(x: Tensor, axis: int) -> Tensor:
    """x as (N, C, places): what statistics of a sample and channel run over."""
    return x.flatten(2) if axis == PICTURES else x.flatten(1, -2).transpose(1, 2)
