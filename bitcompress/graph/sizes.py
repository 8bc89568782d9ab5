"""Inputs of another size, made from an example: what a model must take just as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitcompress.graph.record import Inputs


def other_sizes(inputs: Inputs) -> list[Inputs]:
    """The example with larger pictures or longer sequences; several, since models are choosy.

    A model may take one of them, or none. The list is empty where nothing could grow.
    """
    args, kwargs = inputs
    growths = _growths([v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)])
    return [_each(inputs, grow) for grow in growths]


def other_content(inputs: Inputs) -> Inputs:
    """The example with its tensors turned round along their last axis."""
    return _each(inputs, lambda v: v.flip(-1) if isinstance(v, Tensor) and v.dim() else v)


def _each(inputs: Inputs, change: Callable[[Any], Any]) -> Inputs:
    args, kwargs = inputs
    return tuple(change(v) for v in args), {k: change(v) for k, v in kwargs.items()}


@dataclass(frozen=True)
class _Pictures:
    """Makes pictures of other sides: rows and columns repeated from the start."""

    rows: int
    columns: int

    def __call__(self, value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.dim() == 4):
            return value
        return _repeated(_repeated(value, -2, self.rows), -1, self.columns)


@dataclass(frozen=True)
class _Sequences:
    """Makes longer sequences: each axis of that length, but for batch and features, goes on."""

    length: int

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() not in (2, 3):
            return value
        square = value.dim() == 2 and value.shape[0] == value.shape[1] == self.length
        for axis in (0, 1) if square else (1,):
            if value.shape[axis] == self.length:
                value = _repeated(value, axis, self.length // 2 + 1)
        return value


def _growths(tensors: list[Tensor]) -> list[Callable[[Any], Any]]:
    """How inputs of another size may be made of these."""
    if any(t.dim() == 4 for t in tensors):
        # Windows divide the first; what is halved six times in a row needs the second.
        return [_Pictures(16, 32), _Pictures(64, 128)]
    for tensor in tensors:
        if tensor.dim() == 3 or (tensor.dim() == 2 and not tensor.is_floating_point()):
            return [_Sequences(int(tensor.shape[1]))]
    return []


def repeated(value: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor in another shape of as many axes: entries from the start again, or fewer."""
    for axis, (old, new) in enumerate(zip(value.shape, shape, strict=True)):
        if old != new:
            value = _repeated(value, axis, new - old)
    return value.contiguous()


def _repeated(value: Tensor, axis: int, more: int) -> Tensor:
    """The tensor with `more` entries along an axis, from the start again."""
    size = int(value.shape[axis])
    return value.index_select(axis, torch.arange(size + more, device=value.device) % size)
