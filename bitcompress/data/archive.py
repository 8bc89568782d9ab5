"""A zip of pictures, read in place: nothing is ever unpacked, and no claim of it is believed.

Names only sort pictures into classes; they never become paths. Sizes are bounded before and while
bytes are read, so that a small file cannot fill the memory.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from bitcompress.data.images import SUFFIXES, Picture, decode_image
from bitcompress.errors import DataError

MOST_FILES = 2_000_000
LARGEST_FILE = 64 << 20
"""Bytes of one packed picture, unpacked."""


def picture_names(path: Path) -> list[str]:
    """The pictures that a zip lists, in order; hidden files and folders of other things are none.

    Raises: DataError if the file is no zip, is damaged, is encrypted or lists absurd sizes.
    """
    with _opened(path) as archive:
        infos = archive.infolist()
    if len(infos) > MOST_FILES:
        raise DataError(f"{path} lists {len(infos)} files, more than {MOST_FILES}: split it")
    names = []
    for info in infos:
        parts = info.filename.split("/")
        hidden = any(p.startswith((".", "__MACOSX")) for p in parts)
        if info.is_dir() or hidden or Path(parts[-1]).suffix.lower() not in SUFFIXES:
            continue
        if info.flag_bits & 1:
            raise DataError(f"{path}: {info.filename} is encrypted; pack the pictures openly")
        if info.file_size > LARGEST_FILE:
            raise DataError(
                f"{path}: {info.filename} says that it holds {info.file_size} bytes, more than a "
                f"picture may have ({LARGEST_FILE}): the zip is damaged or no data set"
            )
        names.append(info.filename)
    if len(set(names)) != len(names):
        raise DataError(f"{path} lists a picture twice: pack it anew")
    return sorted(names)


def fingerprint(path: Path) -> str:
    """A digest of what the zip lists: names, sizes and checksums of all files."""
    digest = hashlib.sha256()
    with _opened(path) as archive:
        for info in sorted(archive.infolist(), key=lambda i: i.filename):
            digest.update(f"{info.filename}\0{info.file_size}\0{info.CRC}\n".encode())
    return digest.hexdigest()


def read_pictures(path: Path, names: Sequence[str]) -> Iterator[Picture]:
    """The named pictures one after the other.

    Raises: DataError that names the first one that is damaged, missing or no picture.
    """
    with _opened(path) as archive:
        for name in names:
            try:
                with archive.open(name) as file:
                    data = file.read(LARGEST_FILE + 1)
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, ValueError,
                    NotImplementedError, RuntimeError) as error:  # fmt: skip
                raise DataError(
                    f"{path} is damaged at {name} ({error}): fetch or pack it anew"
                ) from error
            if len(data) > LARGEST_FILE:
                raise DataError(f"{path}: {name} is longer than a picture may be: it is damaged")
            yield decode_image(data, path / name)


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{path} cannot be read as a zip ({error}): it is damaged or cut short; fetch it anew"
        ) from error
