"""Means over the pixels of a picture, channel by channel: float32, in an order written down.

A binary layer may take its threshold and its scale from such means, and then one bit of a mean
decides bits of the whole picture. A library adds up in an order of its own; this one is the same
wherever the picture lies and on however many threads. Sums are multiplied by 1 / pixels, since a
GPU does so where one asks for a division.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.packed.softmax import lane_sum
from bitcompress.packed.tape import recorder

TILE = 256


def tile_sum(x: Tensor) -> Tensor:
    """The sum along the last axis: of 256 numbers in a row, then of 256 such sums, and so on.

    Each 256 add up as `lane_sum` has it. Any device gives these bits, and gradients flow.
    Shapes: (..., P) float32. Returns: (...).
    """
    while True:
        padded = torch.nn.functional.pad(x, (0, -x.shape[-1] % TILE))
        x = lane_sum(padded.view(*x.shape[:-1], -1, TILE)).squeeze(-1)
        if x.shape[-1] == 1:
            return x.squeeze(-1)


def define_pixel_mean(x: Tensor) -> Tensor:
    """The definition of `pixel_mean`."""
    return tile_sum(x.flatten(2)) * (1 / x.shape[2:].numel())


def define_pixel_deviation(x: Tensor, centre: Tensor) -> Tensor:
    """The definition of `pixel_deviation`."""
    apart = x.flatten(2) - centre.unsqueeze(-1)
    return tile_sum(apart.abs()) * (1 / x.shape[2:].numel())


def pixel_mean(x: Tensor) -> Tensor:
    """The mean over the pixels of each channel: the definition, or the native kernel.

    Shapes: x (N, C, ...) float32, at least one pixel. Returns: (N, C).
    """
    return _noted("pixel_mean", (x,))


def pixel_deviation(x: Tensor, centre: Tensor) -> Tensor:
    """The mean over the pixels of how far x lies from `centre`, |x - centre|.

    Shapes: x (N, C, ...) float32; centre (N, C). Returns: (N, C).
    """
    return _noted("pixel_deviation", (x, centre))


def _noted(kind: str, inputs: tuple[Tensor, ...]) -> Tensor:
    found = recorder()
    if found is None:
        return means(kind, *inputs)
    return found.step(kind, None, inputs, lambda: means(kind, *inputs))


def means(kind: str, *inputs: Tensor) -> Tensor:
    """`pixel_mean` or `pixel_deviation` of tensors, natively where they are plain numbers."""
    x = inputs[0]
    plain = native.kernels() is not None and all(is_plain(t) for t in inputs)
    pictures = as_pixels(x) if plain else None
    if pictures is None:
        return DEFINITIONS[kind](*inputs)
    out = x.new_empty(x.shape[:2])
    sum_natively(kind, [t.detach() for t in inputs], out, native.threads())
    return out


def is_plain(x: Tensor) -> bool:
    """Whether the kernels take x, and nobody wants its gradient."""
    return native.takes(x) and not (x.requires_grad and torch.is_grad_enabled())


def sum_natively(kind: str, inputs: list[Tensor], out: Tensor, threads: int) -> None:
    """The native kernel for `means`, to out (N, C)."""
    kernels, pictures = native.kernels(), as_pixels(inputs[0].detach())
    assert kernels is not None and pictures is not None
    if kind == "pixel_mean":
        kernels.pixel_sums(pictures, None, out, None, None, threads)
    else:
        kernels.pixel_sums(pictures, inputs[1].contiguous(), None, out, None, threads)
    out.mul_(1 / inputs[0].shape[2:].numel())


def as_pixels(x: Tensor) -> Tensor | None:
    """Pictures (N, C, ...) as (N, C, P) of the same memory; dense where they do not lie so.

    None where there is no pixel.
    """
    if x.dim() < 3 or x.numel() == 0:
        return None
    n, c = x.shape[:2]
    try:
        flat = x.view(n, c, -1)
    except RuntimeError:
        return x.contiguous().view(n, c, -1)
    pixels = flat.shape[2]
    dense = flat.is_contiguous()
    pitch = flat.stride(2) if pixels > 1 else c
    last = (c == 1 or flat.stride(1) == 1) and pitch >= c
    last = last and (n == 1 or flat.stride(0) == pixels * pitch)
    return flat if dense or last else flat.contiguous()


DEFINITIONS: dict[str, Callable[..., Tensor]] = {
    "pixel_mean": define_pixel_mean,
    "pixel_deviation": define_pixel_deviation,
}
