"""What group norm means between packed layers: a scale and an offset for each channel of a picture.

They are found in float64 from sums over pixels (packed/pixels.py); the norm itself is one product
and one sum in float32, two steps that a packed layer can do as it reads or writes. As with layer
norm (packed/norm.py) a library's own would differ in the last bits, and one bit may flip a code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.packed.pixels import as_pixels, is_plain, tile_sum
from bitcompress.packed.tape import recorder


def define_group_scales(
    x: Tensor, groups: int, gain: Tensor | None, shift: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """The scale and the offset that make x * scale + offset its group norm.

    Sums are those of deviations from the first pixel of each channel: small where a mean is large.
    Shapes: x (N, C, ...) float32; gain, shift (C,). Returns: (N, C) each.
    """
    flat = x.flatten(2)
    n, c, pixels = flat.shape
    first = flat[:, :, :1]
    apart = flat - first
    moved = tile_sum(apart).double() / pixels
    squares = tile_sum(apart * apart).double() / pixels
    own = squares - moved * moved
    own = torch.where(own < 0, 0.0, own).view(n, groups, -1)
    means = (first.squeeze(-1).double() + moved).view(n, groups, -1)
    each = c // groups
    mean = _in_order(means) / each
    variance = _in_order(own + (means - mean) * (means - mean)) / each
    factor = (1 / torch.sqrt(variance + eps)).expand_as(means).reshape(n, c)
    scale = factor if gain is None else factor * gain.double()
    low = torch.zeros(c, dtype=torch.float64) if shift is None else shift.double()
    offset = low - mean.expand_as(means).reshape(n, c) * scale
    return scale.float(), offset.float()


def define_group_norm(
    x: Tensor, groups: int, gain: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    """The definition of `group_norm`."""
    return _applied(x, *define_group_scales(x, groups, gain, shift, eps))


def _applied(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    view = (*x.shape[:2], *(1,) * (x.dim() - 2))
    return x * scale.view(view) + offset.view(view)


def _in_order(x: Tensor) -> Tensor:
    """The sum along the last axis, one after the other. Returns: (..., 1)."""
    total = torch.zeros_like(x[..., :1])
    for i in range(x.shape[-1]):
        total = total + x[..., i : i + 1]
    return total


def group_scales(
    x: Tensor, groups: int, gain: Tensor | None, shift: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """`define_group_scales`, or the native kernel."""
    affine = [part for part in (gain, shift) if part is not None]
    plain = native.kernels() is not None and all(is_plain(part) for part in (x, *affine))
    if not plain or as_pixels(x.detach()) is None:
        return define_group_scales(x, groups, gain, shift, eps)
    scale, offset = x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
    scale_natively(x, groups, gain, shift, eps, scale, offset, native.threads())
    return scale, offset


def scale_natively(
    x: Tensor, groups: int, gain: Tensor | None, shift: Tensor | None, eps: float,
    scale: Tensor, offset: Tensor, threads: int,
) -> None:  # fmt: skip
    """The native kernel for `group_scales`, to scale and offset (N, C)."""
    kernels, pictures = native.kernels(), as_pixels(x.detach())
    assert kernels is not None and pictures is not None
    gains, shifts = (None if part is None else part.detach().contiguous() for part in (gain, shift))
    kernels.group_scales(pictures, groups, gains, shifts, eps, scale, offset, threads)


def group_norm(
    x: Tensor, groups: int, gain: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    """Group norm: the definition, or the native kernel.

    Shapes: x (N, C, ...) float32, at least one pixel; gain, shift (C,). Returns: like x, in the
    same order in memory.
    """
    found = recorder()
    if found is None:
        return _applied(x, *group_scales(x, groups, gain, shift, eps))
    affine = [part for part in (gain, shift) if part is not None]
    target = groups, gain is not None, shift is not None, eps
    return found.step(
        "group_norm", target, (x, *affine),
        lambda: _applied(x, *group_scales(x, groups, gain, shift, eps)),
    )  # fmt: skip
