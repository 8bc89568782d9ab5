"""Rounding and clipping with straight-through gradients.

Everything that trains through a quantizer goes through this file; the fused native kernels only
do the same arithmetic in one pass over memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitcompress.quant import fused


class FakeQuantize(torch.autograd.Function):
    """x moved onto the grid of 2^b levels between two bounds, with straight-through gradients.

    Shapes: x any; lower and upper (groups,) read along `axis` (None: one group).
    Source: 2DQuant (NeurIPS 2024), section 3.1 and appendix. With r the code and n = 2^b - 1:
        dq/dx = [l <= x <= u]
        dq/du = [x > u] + [inside] (r/n - (x - l)/(u - l))
        dq/dl = [x < l] - [inside] (r/n - (x - l)/(u - l))
    Differs: the main text prints the step function of the upper case reversed; the appendix form
    is used.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        lower: Tensor,
        upper: Tensor,
        bits: int,
        axis: int | None,
        scale: Tensor | None,
    ) -> Tensor:
        """The nearest level of each number; `scale` is the step where it was computed elsewhere."""
        ctx.save_for_backward(x, lower, upper)
        ctx.bits, ctx.axis = bits, axis
        step = (upper - lower) / ((1 << bits) - 1) if scale is None else scale
        return fused.quantize(x, step, lower, bits, axis)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and of both bounds."""
        x, lower, upper = ctx.saved_tensors
        grad_x, grad_lower, grad_upper = fused.quantize_backward(
            x, grads[0], lower, upper, ctx.bits, ctx.axis
        )
        return grad_x, grad_lower, grad_upper, None, None, None


def fake_quantize(
    x: Tensor,
    lower: Tensor,
    upper: Tensor,
    bits: int,
    axis: int | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """x on the grid of 2^bits levels between lower and upper, differentiable in all three.

    `scale` is the step to use where the packed twin computes it in another order than
    (upper - lower) / n, so that both cut the same codes.
    """
    step = None if scale is None else scale.detach()
    result: Tensor = FakeQuantize.apply(x, lower, upper, bits, axis, step)  # type: ignore[no-untyped-call]
    return result
