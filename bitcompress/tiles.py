"""A picture of any size through a model: whole when small, in overlapping tiles when not.

Neighbouring tiles overlap, and each output pixel is taken from the tile in which it lies farthest
from a cut. Memory depends on the tile, not on the picture. Tiles start at multiples of one step, so
a network that cuts its input into windows cuts a tile as it cuts the whole where windows divide it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bitcompress.errors import UsageError

LIMIT = 384 * 384
"""Pixels of a picture that is run whole; DAT-light takes about 18 kB a pixel."""
TILE, OVERLAP = 384, 48
"""As large as the largest whole picture: what attends to all of its input sees the most. Tiles step
by 288, which windows of 8, 16 and 32 pixels divide, and strides of 2 and 3."""


def run_picture(
    model: nn.Module,
    image: NDArray[np.uint8],
    *,
    scale: int,
    image_range: float,
    tile: int = TILE,
    overlap: int = OVERLAP,
    limit: int = LIMIT,
) -> NDArray[np.uint8]:
    """The model's picture of a picture.

    Shapes: image (H, W, 3) uint8. Returns: (scale H, scale W, 3) uint8.
    Raises: UsageError if tile and overlap make no sense.
    """
    height, width = image.shape[:2]
    if tile <= 2 * overlap or overlap < 0:
        raise UsageError(f"a tile of {tile} pixels with {overlap} of overlap has no inside")
    if height * width <= limit:
        return _run(model, image, scale, image_range)
    out = np.zeros((height * scale, width * scale, 3), dtype=np.uint8)
    for top, bottom, keep_top, keep_bottom in cuts(height, tile, overlap):
        for left, right, keep_left, keep_right in cuts(width, tile, overlap):
            part = _run(model, image[top:bottom, left:right], scale, image_range)
            out[keep_top * scale : keep_bottom * scale, keep_left * scale : keep_right * scale] = (
                part[
                    (keep_top - top) * scale : (keep_bottom - top) * scale,
                    (keep_left - left) * scale : (keep_right - left) * scale,
                ]
            )
    return out


def cuts(length: int, tile: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """Start and end of each tile along one side, and the part of it that is kept.

    The last tile may be shorter than the others, but is longer than the overlap on both sides.
    """
    step = tile - 2 * overlap
    starts = list(range(0, max(length - 2 * overlap, 1), step))
    for i, start in enumerate(starts):
        first, last = i == 0, i == len(starts) - 1
        keep_from = 0 if first else start + overlap
        keep_to = length if last else start + tile - overlap
        yield start, min(start + tile, length), keep_from, keep_to


def _run(
    model: nn.Module, image: NDArray[np.uint8], scale: int, image_range: float
) -> NDArray[np.uint8]:
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        y = model(x * image_range) / image_range
    wanted = (1, 3, image.shape[0] * scale, image.shape[1] * scale)
    if tuple(y.shape) != wanted:
        raise UsageError(
            f"the model made {tuple(y.shape)} of a picture of {image.shape[1]}x{image.shape[0]}, "
            f"x{scale} would be {wanted}: it is no model that enlarges pictures x{scale}"
        )
    pixels: NDArray[np.uint8] = (y.clamp(0, 1)[0] * 255).round().permute(1, 2, 0).byte().numpy()
    return pixels
