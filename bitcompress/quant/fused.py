"""Forward and backward of the grid in one pass: the torch definition and its native twin.

A quantizer in training touches every activation several times; memory, not arithmetic, is the
price. The native kernels read and write each number once; without them the torch lines below run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.quant.spec import along_axis, in_groups, round_codes


def quantize(x: Tensor, scale: Tensor, offset: Tensor, bits: int, axis: int | None) -> Tensor:
    """offset + scale * code of each number of x.

    Shapes: x any; scale, offset (groups,) along `axis`. Returns: like x.
    """
    kernels = native.kernels()
    if kernels is not None and native.takes(x):
        flat, view = x.detach().contiguous(), in_groups(x.shape, axis)
        out = torch.empty_like(flat)
        kernels.fake_quantize(
            flat.view(view), scale.detach().contiguous(),
            offset.detach().contiguous(), bits,
            out.view(view), native.threads(),
        )  # fmt: skip
        return out
    return quantize_definition(x, scale, offset, bits, axis)


def quantize_definition(
    x: Tensor, scale: Tensor, offset: Tensor, bits: int, axis: int | None
) -> Tensor:
    """The meaning of `quantize`, in torch."""
    step, low = along_axis(scale, x.dim(), axis), along_axis(offset, x.dim(), axis)
    return round_codes(x, step, low, (1 << bits) - 1) * step + low


def quantize_backward(
    x: Tensor, grad: Tensor, lower: Tensor, upper: Tensor, bits: int, axis: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, lower and upper, given the gradient of the quantized x.

    Shapes: x, grad any, equal; lower, upper (groups,). Returns: like x, (groups,), (groups,).
    """
    kernels = native.kernels()
    if kernels is not None and native.takes(x):
        flat, view = x.contiguous(), in_groups(x.shape, axis)
        grad_x = torch.empty_like(flat)
        grad_lower, grad_upper = torch.empty_like(lower), torch.empty_like(upper)
        kernels.fake_quantize_backward(
            flat.view(view), grad.contiguous().view(view),
            lower.contiguous(), upper.contiguous(), bits,
            grad_x.view(view), grad_lower, grad_upper, native.threads(),
        )  # fmt: skip
        return grad_x, grad_lower, grad_upper
    return quantize_backward_definition(x, grad, lower, upper, bits, axis)


def quantize_backward_definition(
    x: Tensor, grad: Tensor, lower: Tensor, upper: Tensor, bits: int, axis: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The meaning of `quantize_backward`, in torch."""
    levels = (1 << bits) - 1
    low, high = along_axis(lower, x.dim(), axis), along_axis(upper, x.dim(), axis)
    position = (x - low) / (high - low)
    code = round_codes(x, (high - low) / levels, low, levels)
    below, above = x < low, x > high
    inside = ~(below | above)
    residue = torch.where(inside, code / levels - position, 0.0)
    to_upper = grad * (above.to(x.dtype) + residue)
    to_lower = grad * (below.to(x.dtype) - residue)
    if axis is None:
        sums = to_lower.sum().reshape(1), to_upper.sum().reshape(1)
    else:
        groups = [t.movedim(axis, 0).flatten(1) if t.dim() > 1 else t[:, None]
                  for t in (to_lower, to_upper)]  # fmt: skip
        sums = groups[0].sum(1), groups[1].sum(1)
    return grad * inside, sums[0].reshape_as(lower), sums[1].reshape_as(upper)
