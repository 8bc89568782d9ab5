"""Two identities with gradients of their own: an order in memory kept, other numbers shown."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitcompress.packed.ops import memory_format_like


def laid(x: Tensor) -> Tensor:
    """x (N, C, H, W), whose gradient comes back in the order in memory of x.

    Slices and pads beside a block give theirs in another, and batch norm, ReLU and sums of two
    orders are many times slower then. A hook and no function: x may be changed in place afterwards.
    A leaf is left alone, it would keep a hook of every run.
    """
    if x.requires_grad and not x.is_leaf:
        order = memory_format_like(x)
        x.register_hook(lambda grad: grad.contiguous(memory_format=order))  # type: ignore[no-untyped-call]
    return x


class _Shown(torch.autograd.Function):
    """The numbers of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, behind: Tensor, shown: Tensor) -> Tensor:
        return shown.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


def shown(behind: Tensor, shown: Tensor) -> Tensor:
    """The numbers of `shown` with the gradient of `behind`."""
    result: Tensor = _Shown.apply(behind, shown)  # type: ignore[no-untyped-call]
    return result
