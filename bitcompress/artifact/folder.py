"""The folder of a packed model: written as a whole or not at all, with a manifest last.

Every file goes to a temporary one beside it and is synced to the disk before anything that was
there is touched; then the old manifest goes first and the new one comes last. So a folder with a
manifest is complete, whenever the power fails; one without is unfinished.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bitcompress.artifact import checks
from bitcompress.errors import LoadError, OutputError

MANIFEST = "manifest.json"
MODEL = "model.safetensors"
KNOWN = (MODEL, "recipe.yaml", "report.json", "report.md", "report.png")
"""What a save may write; of these, what an overwriting save does not write is removed."""
MAX_MANIFEST = 1 << 20
DIGITS = 12


def manifest(files: Mapping[str, bytes], version: int) -> bytes:
    """The manifest of files.

    It is padded to the length that it has with all of `KNOWN`: a report can tell the size of the
    folder before it is written itself.
    """
    text = _rows(files, version)
    whole = _rows(dict.fromkeys({**dict.fromkeys(KNOWN), **files}, b""), version)
    return f"{text.ljust(len(whole))}\n".encode()


def _rows(files: Mapping[str, bytes], version: int) -> str:
    rows = ",\n".join(
        f'  {json.dumps(name)}: {{"bytes": {len(data):{DIGITS}}, '
        f'"sha256": "{hashlib.sha256(data).hexdigest()}"}}'
        for name, data in files.items()
    )
    return f'{{"format_version": {version}, "files": {{\n{rows}\n}}}}'


def check_place(folder: Path, overwrite: bool) -> None:
    """Raise OutputError where a folder may not be written: call it before the long work."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file: name a folder that does not exist yet")
    held = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if held and not overwrite:
        state = "" if MANIFEST in held or MODEL not in held else ", an unfinished run"
        raise OutputError(
            f"{folder} exists already and holds {held[0]}{state}: name another folder, or "
            "overwrite (--overwrite)"
        )


def check_writable(folder: Path) -> None:
    """Raise OutputError where a folder cannot be made or written: call it before the long work."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"{folder} cannot be made: {place} is a file")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({place}: {error.strerror}): name another place"
        ) from error


def write(folder: Path, files: Mapping[str, bytes], version: int, *, overwrite: bool) -> None:
    """Write files and their manifest into a folder.

    Raises: OutputError where it exists and is not to be overwritten, where another process writes
    it, or where the disk refuses; what was there before is then still there, and nothing new.
    """
    check_place(folder, overwrite)
    try:
        created = _make(folder)
        with _alone(folder):
            # Only the holder of the lock may take the folder away: it may be another's by now.
            try:
                check_place(folder, overwrite)
                _replace(folder, {**files, MANIFEST: manifest(files, version)})
            except BaseException:
                for empty in created:
                    with contextlib.suppress(OSError):
                        empty.rmdir()
                raise
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else folder
        raise OutputError(
            f"{where} cannot be written ({error.strerror or error}): free some space or name "
            "another folder; nothing half-written is left"
        ) from error


def _make(folder: Path) -> list[Path]:
    """Create a folder; gives the folders that this created, innermost first."""
    missing = []
    place = folder
    while not place.exists():
        missing.append(place)
        place = place.parent
    folder.mkdir(parents=True, exist_ok=True)
    return missing


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which the system gives back even if the process is killed."""
    try:
        import fcntl
    except ImportError:  # not on every system; there, two writers are not told apart
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"{folder} is being written by another process: wait for it"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def _temporary(folder: Path, name: str) -> Path:
    return folder / f".{name}.tmp"


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put all files in place, the manifest last; on failure leave what was there."""
    placed: list[Path] = []
    fresh = not any((folder / name).exists() for name in (*KNOWN, *files))
    try:
        for name, data in files.items():
            _write_synced(_temporary(folder, name), data)
        (folder / MANIFEST).unlink(missing_ok=True)
        _sync(folder)
        for stale in set(KNOWN) - files.keys():
            (folder / stale).unlink(missing_ok=True)
        for name in files:
            if name == MANIFEST:
                _sync(folder)
            os.replace(_temporary(folder, name), folder / name)
            placed.append(folder / name)
        _sync(folder)
    except BaseException:
        leftovers = [_temporary(folder, name) for name in files] + (placed if fresh else [])
        for path in leftovers:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def write_file(path: Path, data: bytes) -> None:
    """Write one file as a whole or not at all. Raises: OSError, with what was there before."""
    temporary = _temporary(path.parent, path.name)
    try:
        _write_synced(temporary, data)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Bring a folder's own entries to the disk, where the system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def read_manifest(folder: Path) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The format_version and the files of a folder's manifest.

    Raises: LoadError where there is no manifest, or it is damaged.
    """
    if not folder.exists():
        raise LoadError(f"{folder} does not exist: give the folder that quantize wrote")
    if not folder.is_dir():
        raise LoadError(f"{folder} is a file: give the folder that quantize wrote")
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / MODEL).exists():
            raise LoadError(
                f"{folder} is unfinished: it has no {MANIFEST}, which is written last; run "
                "quantize again (with --resume if it trained)"
            )
        raise LoadError(f"{folder} holds no packed model: it has no {MANIFEST}")
    data = read_file(path, MAX_MANIFEST)
    table = checks.table(checks.parse(data, str(path)), str(path))
    files = checks.table(checks.entry(table, "files", str(path)), f"the files of {path}")
    rows = {}
    for name, value in files.items():
        row = checks.table(value, f"{name!r} in {path}")
        if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise LoadError(f"{path} names {checks.shorten(name)}, which is no file of the folder")
        checks.integer(checks.entry(row, "bytes", str(path)), 0, 1 << 62, f"the size of {name!r}")
        checks.string(checks.entry(row, "sha256", str(path)), f"the sha256 of {name!r}")
        rows[name] = row
    return checks.entry(table, "format_version", str(path)), rows


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a file of at most so many. Raises: LoadError."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, most) + 1)
    except (OSError, MemoryError) as error:
        raise LoadError(
            f"{path} cannot be read ({error}): check its rights and the memory"
        ) from error
    if len(data) > most:
        raise LoadError(
            f"{path} is longer than the {most} bytes that it should have: it was changed"
        )
    return data


def read_checked(folder: Path, name: str, row: Mapping[str, Any]) -> bytes:
    """The bytes of a file, if they are those that the manifest speaks of. Raises: LoadError."""
    path = folder / name
    if not path.is_file():
        raise LoadError(
            f"{path} is missing, though {MANIFEST} names it: copy the whole folder again"
        )
    data = read_file(path, row["bytes"])
    if len(data) < row["bytes"]:
        raise LoadError(
            f"{path} is cut off: it has {len(data)} of {row['bytes']} bytes; copy it again"
        )
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise LoadError(
            f"{path} was changed after it was written (its sha256 differs): copy it again"
        )
    return data
