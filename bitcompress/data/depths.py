"""Pictures with a distance for each pixel: folders of both, or the stereo pair of scikit-image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitcompress.data.beside import DEPTH_WORDS, Pairs, paired
from bitcompress.data.images import MAX_PIXELS, Picture, read_image
from bitcompress.data.maps import Maps
from bitcompress.errors import DataError, Unavailable

Depth = NDArray[np.float32]
"""(H, W) in metres; 0 where nobody knows."""
HELD_OUT = 5
MILLIMETRE = 0.001
"""What a step of a 16-bit depth picture is by default (NYUv2); KITTI's is 1/256 of a metre."""

FOCAL, BASELINE, SHIFT = 994.978, 0.193001, 31.086
"""Of the stereo pair: pixels, metres, pixels between the principal points."""
STEREO = "stereo"
"""What to give in place of a folder for the bundled pair."""
SEEN = 0.7
"""Share of the columns of the stereo pair to train on."""


def open_depths(path: Path, unit: float = MILLIMETRE) -> tuple[Maps[np.float32], Maps[np.float32]]:
    """The training and the test part of a folder of pictures and depths.

    Depths are 16-bit grey pictures whose step is `unit` metres, or .npy files in metres; 0 and what
    is no number are unknown.
    Raises: DataError where there is no such pair, sizes differ, or no depth is known.
    """
    if str(path) == STEREO:
        return stereo_pair()
    train, test = paired(Path(path), DEPTH_WORDS, HELD_OUT, suffixes=(".npy",))
    parts = [
        _maps(f"{path.name} {name}", pairs, unit)
        for name, pairs in (("train", train), ("test", test))
    ]
    return parts[0], parts[1]


def stereo_pair() -> tuple[Maps[np.float32], Maps[np.float32]]:
    """The left picture of scikit-image's Middlebury pair: most columns to train, the rest to test.

    Its disparities d (pixels) become depths focal * baseline / (d + shift of the principal points).
    One scene teaches nothing about depth: it exercises the way, and no more.
    Source: the calibration in the documentation of skimage.data.stereo_motorcycle.
    """
    try:
        from skimage.data import stereo_motorcycle
    except ImportError as error:
        raise Unavailable(
            "the stereo pair comes with scikit-image, which is not installed: "
            "pip install scikit-image, or give a folder of pictures and depths"
        ) from error
    left, _, disparity = stereo_motorcycle()  # type: ignore[no-untyped-call]
    known = np.isfinite(disparity)
    depth = np.zeros(disparity.shape, dtype=np.float32)
    depth[known] = FOCAL * BASELINE / (disparity[known].astype(np.float64) + SHIFT)
    cut = int(left.shape[1] * SEEN)
    parts = [
        Maps(f"stereo {name}", ("motorcycle",), _always(left[:, where], depth[:, where]))
        for name, where in (("train", slice(None, cut)), ("test", slice(cut, None)))
    ]
    return parts[0], parts[1]


def read_depth(path: Path, unit: float) -> Depth:
    """The depths in a file. Raises: DataError if it holds none."""
    if path.suffix.lower() == ".npy":
        depth = _array(path)
    else:
        import PIL.Image

        try:
            with PIL.Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{path}: {image.width}x{image.height} pixels are too many")
                if image.mode not in ("L", "I", "I;16", "I;16B", "F"):
                    raise DataError(f"{path} is a picture in colours, no depths: give 16-bit grey")
                depth = np.asarray(image, dtype=np.float64) * (1.0 if image.mode == "F" else unit)
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"{path} cannot be read as depths: {error}") from error
    known: Depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)
    if not known.any():
        raise DataError(f"{path} knows no depth: all are 0 or no numbers; take it out")
    return known


def _array(path: Path) -> NDArray[np.float64]:
    try:
        found = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as an array of depths: {error}") from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "fiu":
        raise DataError(f"{path} holds no depths: an array (H, W) of metres is expected")
    if not 0 < found.size <= MAX_PIXELS:
        raise DataError(f"{path}: {found.shape} pixels are none or too many")
    return np.asarray(found, dtype=np.float64)


def _always(picture: Picture, depth: Depth) -> Callable[[int], tuple[Picture, Depth]]:
    pair = np.ascontiguousarray(picture), np.ascontiguousarray(depth)
    return lambda index: pair


def _maps(name: str, pairs: Pairs, unit: float) -> Maps[np.float32]:
    def read(index: int) -> tuple[Picture, Depth]:
        file, told = pairs[index]
        picture, depth = read_image(file), read_depth(told, unit)
        if picture.shape[:2] != depth.shape:
            raise DataError(
                f"{file} is {picture.shape[1]}x{picture.shape[0]} and its depths "
                f"{depth.shape[1]}x{depth.shape[0]}: give depths of the picture's size"
            )
        return picture, depth

    maps = Maps(name, tuple(file.stem for file, _ in pairs), read)
    for index in range(len(maps)):
        maps.pair(index)
    return maps
