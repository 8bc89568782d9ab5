"""The stored form of packed models: save, load, describe, and what half precision changes."""

from __future__ import annotations

from bitcompress.artifact.describe import describe
from bitcompress.artifact.encode import FORMAT_VERSION, round_to_stored
from bitcompress.artifact.folder import check_place, check_writable
from bitcompress.artifact.source import Source
from bitcompress.artifact.store import (
    LoadedPacked,
    layer_bytes,
    load,
    packed_bytes,
    save,
    save_model,
)

__all__ = [
    "FORMAT_VERSION",
    "LoadedPacked",
    "Source",
    "check_place",
    "check_writable",
    "describe",
    "layer_bytes",
    "load",
    "packed_bytes",
    "round_to_stored",
    "save",
    "save_model",
]
