"""Random crops, flips and scales of whole batches at once, on uint8 pixels.

Each takes the random numbers that it uses (see `draws.random_of`), and draws them for the whole
batch before it looks at a picture: what happens to a sample does not depend on the others.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bitcompress.data.images import Picture
from bitcompress.errors import ShapeError

Pictures = NDArray[np.uint8]
"""(N, H, W, 3)."""
Scalar = TypeVar("Scalar", bound=np.generic)


def shifted(pictures: Pictures, random: np.random.Generator, reach: int) -> Pictures:
    """Each picture moved by up to `reach` pixels each way; black comes in from the side.

    Shapes: (N, H, W, C) to the same. This is the usual "pad by 4 and crop" of small pictures.
    """
    count, height, width, channels = pictures.shape
    down, right = random.integers(0, 2 * reach + 1, (2, count))
    padded = np.zeros(
        (count, height + 2 * reach, width + 2 * reach, channels), dtype=pictures.dtype
    )
    padded[:, reach : reach + height, reach : reach + width] = pictures
    rows = (down[:, None] + np.arange(height))[:, :, None]
    columns = (right[:, None] + np.arange(width))[:, None, :]
    moved: Pictures = padded[np.arange(count)[:, None, None], rows, columns]
    return moved


def flipped(pictures: Pictures, random: np.random.Generator) -> Pictures:
    """Each picture mirrored left to right with probability one half. Shapes: (N, H, W, C)."""
    chosen = random.integers(0, 2, len(pictures)).astype(bool)
    result: Pictures = pictures.copy()
    result[chosen] = pictures[chosen, :, ::-1]
    return result


def turned(patch: NDArray[Scalar], turns: int, mirror: bool) -> NDArray[Scalar]:
    """A square patch turned by quarters and mirrored, one of its eight forms. Shapes: (H, W, C)."""
    patch = np.rot90(patch, turns)
    return patch[:, ::-1] if mirror else patch


def window(
    picture: Picture, label: NDArray[Scalar], random: np.random.Generator, *,
    size: tuple[int, int], scales: tuple[float, float], outside: Scalar | float,
) -> tuple[Picture, NDArray[Scalar]]:  # fmt: skip
    """A random window of a picture and of the map that labels its pixels, scaled and mirrored.

    The window shows `size / scale` pixels of the picture, at a scale drawn evenly in the logarithm;
    pixels are interpolated between four neighbours, labels are taken from the nearest one. Where
    the window reaches over the edge, the picture repeats its edge and the label is `outside`.
    Shapes: (H, W, 3), (H, W) to (size, 3), size.
    Raises: ShapeError if picture and label differ in size.
    """
    if picture.shape[:2] != label.shape:
        raise ShapeError(
            f"a picture of {picture.shape[:2]} and labels of {label.shape} do not belong together: "
            "give labels of the picture's size"
        )
    scale = float(np.exp(random.uniform(np.log(scales[0]), np.log(scales[1]))))
    along = [
        _places(length, out, scale, random.uniform())
        for length, out in zip(label.shape, size, strict=True)
    ]
    if random.integers(2):
        along[1] = along[1][::-1]
    nearest = [np.floor(at + 0.5).astype(np.int64) for at in along]
    inside = [(at >= 0) & (at < length) for at, length in zip(nearest, label.shape, strict=True)]
    clipped = [np.clip(at, 0, n - 1) for at, n in zip(nearest, label.shape, strict=True)]
    labels = label[clipped[0][:, None], clipped[1]].copy()
    labels[~(inside[0][:, None] & inside[1])] = outside
    return _interpolated(picture, along[0], along[1]), labels


def _places(length: int, out: int, scale: float, where: float) -> NDArray[np.float64]:
    """Which places of a side of `length` pixels a window of `out` pixels looks at."""
    spare = length - out / scale
    start = where * spare if spare > 0 else spare / 2  # too small a picture stands in the middle
    return start + (np.arange(out, dtype=np.float64) + 0.5) / scale - 0.5


def _interpolated(
    picture: Picture, rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> Picture:
    """Bilinear values at a grid of places, the edge repeated outside, rounded half up."""
    top, down = _pairs(rows, picture.shape[0])
    left, right = _pairs(columns, picture.shape[1])
    lower = (rows - np.floor(rows)).astype(np.float32)[:, None, None]
    across = (columns - np.floor(columns)).astype(np.float32)[None, :, None]
    upper_line = picture[top].astype(np.float32)
    lines = upper_line + lower * (picture[down].astype(np.float32) - upper_line)
    values = lines[:, left] + across * (lines[:, right] - lines[:, left])
    rounded: Picture = np.floor(values + np.float32(0.5)).astype(np.uint8)
    return rounded


def _pairs(places: NDArray[np.float64], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first = np.floor(places).astype(np.int64)
    return np.clip(first, 0, length - 1), np.clip(first + 1, 0, length - 1)
