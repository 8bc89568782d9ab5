"""What layer norm means between packed layers: float32, one rounding an operation.

A library's layer norm adds up in an order of its own and differs in the last bits from machine to
machine; one bit may flip a code. This one is written out, so that a kernel which normalises and
cuts in one pass gives the same codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.packed.softmax import lane_sum
from bitcompress.packed.tape import recorder


def define_layer_norm(x: Tensor, gain: Tensor | None, shift: Tensor | None, eps: float) -> Tensor:
    """The definition. The root is taken in float64: that of torch in float32 is no nearest number.

    Shapes: x (..., N) float32; gain, shift (N,). Returns: like x.
    """
    count = x.shape[-1]
    apart = x - lane_sum(x) / count
    variance = lane_sum(apart * apart) / count
    y = apart * (1 / torch.sqrt((variance + eps).double()).float())
    y = y if gain is None else y * gain
    return y if shift is None else y + shift


def layer_norm(x: Tensor, gain: Tensor | None, shift: Tensor | None, eps: float) -> Tensor:
    """Layer norm over the last axis: the definition, or the native kernel.

    Shapes: x (..., N) float32; gain, shift (N,). Returns: like x, contiguous.
    """
    found = recorder()
    if found is None:
        return _layer_norm(x, gain, shift, eps)
    affine = [part for part in (gain, shift) if part is not None]
    target = gain is not None, shift is not None, eps
    return found.step("norm", target, (x, *affine), lambda: _layer_norm(x, gain, shift, eps))


def _layer_norm(x: Tensor, gain: Tensor | None, shift: Tensor | None, eps: float) -> Tensor:
    kernels = native.kernels()
    affine = [part for part in (gain, shift) if part is not None]
    if kernels is None or not all(native.takes(part) for part in (x, *affine)):
        return define_layer_norm(x, gain, shift, eps).contiguous()
    gains, shifts = (None if part is None else part.detach().contiguous() for part in (gain, shift))
    flat = x.detach().contiguous()
    out = torch.empty_like(flat)
    rows = (-1, x.shape[-1])
    kernels.layer_norm(flat.view(rows), gains, shifts, eps, out.view(rows), native.threads())
    return out
