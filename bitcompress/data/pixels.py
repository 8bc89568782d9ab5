"""Decoded pixels kept on disk: many small pictures are decoded once and then only mapped.

The file is a plain .npy of uint8, written whole or not at all. Its name is a digest of what was
decoded, so that changed data is decoded anew; its header is compared with the one array that is
expected, so that a damaged or foreign file can neither be read past its end nor unpickled.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bitcompress.errors import OutputError

Shape = tuple[int, ...]


def cache_folder() -> Path:
    """Where decoded pixels are kept: BITCOMPRESS_CACHE, or ~/.cache/bitcompress."""
    said = os.environ.get("BITCOMPRESS_CACHE")
    return Path(said).expanduser() if said else Path.home() / ".cache" / "bitcompress"


def mapped(path: Path, shape: Shape) -> NDArray[np.uint8] | None:
    """The array in a file, mapped and not read; None where it is not exactly the one expected.

    The header is compared with the one that we write and never parsed.
    """
    wanted = _header(shape)
    try:
        with path.open("rb") as file:
            found = file.read(len(wanted))
            size = os.fstat(file.fileno()).st_size
        if found != wanted or size != len(wanted) + math.prod(shape):
            return None
        return np.memmap(path, np.uint8, "r", len(wanted), shape)
    except (OSError, ValueError):
        return None


def _header(shape: Shape) -> bytes:
    header = io.BytesIO()
    told = {"shape": shape, "fortran_order": False, "descr": "|u1"}
    npy.write_array_header_1_0(header, told)
    return header.getvalue()


def kept(
    folder: Path | None, name: str, shape: Shape, fill: Callable[[NDArray[np.uint8]], None]
) -> NDArray[np.uint8]:
    """The array called `name`: the one on disk, or a new one that `fill` wrote into.

    Without a folder the user's cache folder is taken, and where nothing can be written there the
    array stays in memory. Raises: OutputError if a folder that was named cannot be written.
    """
    path = (cache_folder() if folder is None else folder) / f"{name}.npy"
    found = mapped(path, shape)
    if found is not None:
        return found
    try:
        return _written(path, shape, fill)
    except OSError as error:
        if folder is not None:
            raise OutputError(
                f"{path} cannot be written ({error.strerror or error}): free some space or name "
                "another folder"
            ) from error
    pixels = np.zeros(shape, dtype=np.uint8)
    fill(pixels)
    return pixels


def _written(
    path: Path, shape: Shape, fill: Callable[[NDArray[np.uint8]], None]
) -> NDArray[np.uint8]:
    """Decode into a file beside the target, then put it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        pixels = npy.open_memmap(temporary, "w+", np.uint8, shape, version=(1, 0))
        fill(pixels)
        pixels.flush()
        del pixels
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    found = mapped(path, shape)
    if found is None:
        raise OSError(f"{path} does not hold what was written into it")
    return found
