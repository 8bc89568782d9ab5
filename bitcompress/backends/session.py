"""Sessions of ONNX Runtime with our operators, on files that are what was written.

`ort_session` is what a user calls. It refuses a missing or wrong operator library, a file that is
cut off or changed, and says what to do in one sentence.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from bitcompress import native
from bitcompress.backends.schema import DOMAIN, VERSION
from bitcompress.errors import LoadError, Unavailable

LIBRARY = "libbitcompress_ort.so"
ENVIRONMENT = "BITCOMPRESS_ORT_LIBRARY"
SEAL = b"bitcompress.sha256"
DIGITS = 64
LEAST = (1, 20)


def library() -> Path:
    """The operator library of ONNX Runtime.

    Raises: Unavailable where it is not there, or speaks of another version of the operators.
    """
    path = _library_path()
    if not path.is_file():
        raise Unavailable(
            f"the operator library {path} is missing: reinstall bitcompress with a C++ compiler at "
            f"hand, or name the library in {ENVIRONMENT}"
        )
    try:
        version = ctypes.CDLL(str(path)).bitcompress_operator_version()
    except (OSError, AttributeError) as error:
        raise Unavailable(f"{path} is no operator library of bitcompress ({error})") from error
    if version != VERSION:
        raise Unavailable(
            f"the operator library {path} has version {version} of the operators, this bitcompress "
            f"has {VERSION}: install both from one release"
        )
    return path


def _library_path() -> Path:
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    kernels = native.kernels()
    homes = [Path(__file__).parents[1]]
    if kernels is not None and kernels.__file__:
        homes.append(Path(kernels.__file__).parent)
    found = [home / LIBRARY for home in homes if (home / LIBRARY).is_file()]
    return found[0] if found else homes[-1] / LIBRARY


def runtime() -> Any:
    """The module onnxruntime. Raises: Unavailable where it is missing or too old."""
    try:
        ort = import_module("onnxruntime")
    except ImportError as error:
        raise Unavailable(
            "onnxruntime is not installed: pip install 'bitcompress[onnx]'"
        ) from error
    if tuple(map(int, ort.__version__.split(".")[:2])) < LEAST:
        raise Unavailable(f"onnxruntime {ort.__version__} is too old: the operators need 1.20")
    return ort


def seal(data: bytes) -> bytes:
    """The bytes of a file with the digest of all the others filled in where zeros stand for it."""
    place = _digest_place(data)
    assert place is not None, "the file has no place for its digest"
    return data[:place] + _digest(data, place).encode() + data[place + DIGITS :]


def _digest_place(data: bytes) -> int | None:
    """Where the digest stands: behind its key, the tag of the value, and the length."""
    at = data.rfind(SEAL)
    return None if at < 0 or at + len(SEAL) + 2 + DIGITS > len(data) else at + len(SEAL) + 2


def _digest(data: bytes, place: int) -> str:
    blank = b"0" * DIGITS
    return hashlib.sha256(data[:place] + blank + data[place + DIGITS :]).hexdigest()


def read_sealed(path: Path) -> bytes:
    """The bytes of a file that bitcompress wrote.

    Raises: LoadError where it is not there, cut off, changed, or not ours.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LoadError(
            f"{path} cannot be read ({error.strerror}): give a file that export wrote"
        ) from error
    place = _digest_place(data)
    if place is None:
        raise LoadError(
            f"{path} is cut off, or no ONNX file that bitcompress wrote: export it again"
        )
    if data[place : place + DIGITS] != _digest(data, place).encode():
        raise LoadError(
            f"{path} was changed after it was written (its sha256 differs): export it again"
        )
    return data


def ort_session(
    path: str | Path, *, threads: int | None = None, sealed: bool = True, spin: bool = True
) -> Any:
    """An onnxruntime.InferenceSession of an exported file, with our operators registered.

    threads: of ONNX Runtime and of our operators, which run on its threads; torch's number if None.
    sealed: False takes a file without digest, which some other tool has written.
    spin: False has its threads rest between runs, where others are measured in turn.
    Raises: Unavailable, LoadError.
    """
    runtime()
    if sealed:
        data = read_sealed(Path(path))
    else:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise LoadError(f"{path} cannot be read ({error.strerror})") from error
    return session_of(data, str(path), threads, spin=spin)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message: number, and the integer or the bytes that it holds.

    Raises: IndexError or ValueError where the bytes are none.
    """
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("no varint is so long")

    while at < len(data):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            yield number, varint()
        elif kind in (1, 2, 5):
            size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
            if at + size > len(data):
                raise IndexError("the message is cut off")
            yield number, data[at : at + size]
            at += size
        else:
            raise ValueError(f"no field is of kind {kind}")


OPSET_IMPORT = 8
"""The field of an ONNX model that holds a domain (1) and its version (2)."""


def operators_of(data: bytes) -> int | None:
    """Which version of our operators a file asks for; None where it asks for none.

    Raises: IndexError or ValueError where the bytes are no ONNX file.
    """
    for number, value in _fields(data):
        if number == OPSET_IMPORT and isinstance(value, bytes):
            table = dict(_fields(value))
            if table.get(1) == DOMAIN.encode():
                found = table.get(2, 1)
                return found if isinstance(found, int) else None
    return None


def session_of(data: bytes, name: str, threads: int | None = None, *, spin: bool = True) -> Any:
    """A session of a file's bytes; `name` is for messages. Raises: Unavailable, LoadError."""
    ort = runtime()
    try:
        version = operators_of(data)
    except (IndexError, ValueError) as error:
        raise LoadError(f"{name} is no ONNX file, or cut off ({error})") from error
    if version not in (None, VERSION):
        raise Unavailable(
            f"{name} has version {version} of the operators of bitcompress, ours are {VERSION}: "
            "export it again, or install the bitcompress that wrote it"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    if not spin:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if version is not None:
        options.register_custom_ops_library(str(library()))
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise LoadError(
            f"{name} cannot be opened by ONNX Runtime {ort.__version__}: {said}"
        ) from error
