"""The product inside a packed block as a packed layer: what plain tensors on the CPU take.

A block stores bits and a scale; a PackedConv2d or PackedLinear of the same bits, whose input is cut
by a step at the threshold, runs natively, and programs know how to fuse what stands around it.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress import native
from bitcompress.layers.geometry import ConvGeometry
from bitcompress.layers.packed import PackedConv2d, PackedLinear
from bitcompress.packed.layer import watched
from bitcompress.packed.stored import PackedTensor


@dataclass(frozen=True)
class _Twin:
    state: tuple[Any, ...]
    held: tuple[Tensor, ...]
    """The tensors of `state`, so that none of their identities is given to another."""
    layer: PackedConv2d | PackedLinear


_twins: weakref.WeakKeyDictionary[nn.Module, _Twin] = weakref.WeakKeyDictionary()


def runs_natively(x: Tensor) -> bool:
    """Whether a twin may take x: a plain tensor that nobody follows, and kernels."""
    if native.is_traced():
        return False
    return native.kernels() is not None and native.takes(x) and not watched(x)


def twin_of(
    block: nn.Module, codes: Tensor, shape: tuple[int, ...], scale: Tensor, theta: Tensor | None,
    geometry: ConvGeometry | None,
) -> PackedConv2d | PackedLinear:  # fmt: skip
    """The layer of a block's bits, made on first use and anew when its tensors change.

    A code 0 or 1 of x stands for 2 code - 1, one of the weight for 2 scale code - scale.
    Shapes: codes (bytes,) of shape (O, C/groups, KH, KW); scale (O,); theta (C,), None for 0, where
            a block takes its threshold off x first. geometry: None for a layer of tokens.
    """
    held = (codes, scale) if theta is None else (codes, scale, theta)
    state = (geometry, *((id(t), 0 if t.is_inference() else t._version) for t in held))
    found = _twins.get(block)
    if found is None or found.state != state:
        found = _twins[block] = _Twin(
            state, held, _made(codes.detach(), shape, scale.detach(), theta, geometry)
        )
    return found.layer


def _made(
    codes: Tensor, shape: tuple[int, ...], scale: Tensor, theta: Tensor | None,
    geometry: ConvGeometry | None,
) -> PackedConv2d | PackedLinear:  # fmt: skip
    channels = shape[1] * (1 if geometry is None else geometry.groups)
    zeros = torch.zeros(channels)
    cut = zeros if theta is None else theta.detach().reshape(-1)
    one = torch.ones(())
    if geometry is None:
        weight = PackedTensor(codes, shape[:2], 1, 2 * scale, -scale)
        return PackedLinear(weight, None, 2 * one, -one, 1, zeros, cut)
    weight = PackedTensor(codes, shape, 1, 2 * scale, -scale)
    return PackedConv2d(weight, None, 2 * one, -one, 1, geometry, zeros, cut)


def bordered(x: Tensor, geometry: ConvGeometry, pad_value: int) -> tuple[Tensor, ConvGeometry]:
    """x with a border that counts as +1 or -1 written out, and the geometry of what is left.

    What is beyond any threshold has the bit of that sign. Shapes: x (N, C, H, W), any threshold
    taken off.
    """
    rows, columns = geometry.padding
    look = ConvGeometry(geometry.stride, (rows, columns), geometry.dilation, geometry.groups)
    if pad_value == 0 or (rows, columns) == (0, 0):
        return x, look
    border = float("inf") if pad_value > 0 else float("-inf")
    x = F.pad(x, (columns, columns, rows, rows), value=border)
    return x, ConvGeometry(geometry.stride, (0, 0), geometry.dilation, geometry.groups)
