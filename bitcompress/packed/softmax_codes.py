"""Softmax of rows as codes: what stands between the two products of an attention, by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.packed.ops import encode
from bitcompress.packed.softmax import softmax


def softmax_codes(logits: Tensor, scale: Tensor, offset: Tensor, bits: int) -> Tensor:
    """The codes of the softmax along the last axis: the definition, or the native kernel.

    Shapes: logits (..., N) float32; scale, offset of one element. Returns: like logits, uint8; a
    row with a NaN has the codes 0.
    """
    kernels = native.kernels()
    if kernels is None or not native.takes(logits):
        return encode(softmax(logits), scale, offset, bits)
    flat = logits.detach().contiguous()
    out = torch.empty(logits.shape, dtype=torch.uint8)
    rows = (-1, logits.shape[-1])
    kernels.softmax_codes(
        flat.view(rows), float(scale), float(offset), bits, out.view(rows), native.threads()
    )
    return out
