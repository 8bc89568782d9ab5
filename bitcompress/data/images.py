"""Pictures in and out of files: what a file holds becomes uint8 RGB, or an error that names it."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitcompress.errors import DataError, OutputError, ShapeError, Unavailable, UsageError

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
MAX_PIXELS = 1 << 27
"""Pictures beyond this are refused: a small file may claim any size."""
DEEP = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
"""How Pillow calls the pixels of a 16-bit PNG in colour, and the same in the other byte order."""


def read_image(path: Path) -> Picture:
    """The picture in a file, as it is seen: rotated as its tags say, transparency dropped.

    Grey, palette and CMYK pictures become RGB. 16 bits are rounded to 8, in grey and in PNG; of
    other 16-bit colour Pillow gives the upper byte alone.
    Returns: (H, W, 3) uint8.
    Raises: DataError if the file is no picture, is broken, is absurdly large, or has pixels
        without a known range.
    """
    return _decoded(path, path)


def decode_image(data: bytes, name: Path) -> Picture:
    """The picture that a file's bytes hold; `name` is what messages call it. As `read_image`."""
    return _decoded(io.BytesIO(data), name)


def _decoded(source: Path | io.BytesIO, path: Path) -> Picture:
    pil = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pil.Image.open(source) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{path}: {image.width}x{image.height} pixels are too many")
                if _is_deep_colour(image):
                    return _deep_colour(pil, source, image)
                image.load()
                return _rgb(pil.ImageOps.exif_transpose(image), path)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Exception as error:
        raise DataError(f"{path} cannot be read as a picture: {error}") from error


def _rgb(image: Any, path: Path) -> Picture:
    """The pixels of an upright picture of any mode."""
    if image.mode == "F" or image.mode == "I" and image.getextrema()[1] > 65535:
        raise DataError(
            f"{path} holds {'floating' if image.mode == 'F' else '32-bit'} pixels, whose range is "
            "not known: convert it to 8 or 16 bits"
        )
    if image.mode.startswith("I"):  # I;16 and its byte orders; older Pillow: I
        grey = _to_eight(np.asarray(image, dtype=np.int64))
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        # Not composited: the colour under transparent pixels is what upscalers are fed.
        return np.ascontiguousarray(np.asarray(image.convert("RGBA"))[..., :3])
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _is_deep_colour(image: Any) -> bool:
    """Whether this is a 16-bit PNG in colour."""
    return image.format == "PNG" and any(part[3] in DEEP for part in image.tile)


def _deep_colour(pil: ModuleType, source: Path | io.BytesIO, image: Any) -> Picture:
    """A 16-bit colour PNG rounded to 8 bits.

    Pillow keeps one byte of each number, which one depending on the byte order that it is told. So
    the file is decoded twice, the second time with the wrong order.
    """
    again = source if isinstance(source, Path) else io.BytesIO(source.getvalue())
    with pil.Image.open(again) as second:
        second.tile = [(*part[:3], DEEP[part[3]]) for part in second.tile]
        high, low = (
            np.asarray(pil.ImageOps.exif_transpose(each))[..., :3].astype(np.int64)
            for each in (image, second)
        )
    return _to_eight(high * 256 + low)


def _to_eight(deep: NDArray[np.int64]) -> NDArray[np.uint8]:
    """16 bits to 8: white stays white, halves go up."""
    return ((np.clip(deep, 0, 65535) * 2 + 257) // 514).astype(np.uint8)


def write_image(path: Path, picture: Picture) -> None:
    """Write a picture; the file is there whole or not at all, and its ending names the format.

    Shapes: (H, W, 3) uint8.
    Raises: ShapeError for another layout, UsageError for an ending that is no picture format,
        OutputError if it cannot be written.
    """
    pil = _pillow()
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ShapeError(f"{path}: pictures are uint8 (H, W, 3), not {picture.dtype} "
                         f"{picture.shape}")  # fmt: skip
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: cannot write {path.suffix or 'no ending'}; use .png")
    buffer = io.BytesIO()
    kind = pil.Image.registered_extensions()[path.suffix.lower()]
    pil.Image.fromarray(picture).save(buffer, format=kind)
    write_whole(path, buffer.getvalue())


def check_target(path: Path) -> None:
    """Raise OutputError or UsageError where a picture cannot be written: before the work."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: cannot write {path.suffix or 'no ending'}; use .png")
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a picture to write")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"cannot write {path}: {path.parent} is no folder; make it first")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all.

    Raises: OutputError if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _pillow() -> ModuleType:
    try:
        import PIL
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise Unavailable(
            "pictures need Pillow, which is not installed: pip install 'bitcompress[images]'"
        ) from error
    return PIL
