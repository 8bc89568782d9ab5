"""Reading checkpoint files as untrusted data: what a file is, its tensors, its envelope.

Nothing here runs code that a file brings: pickles are read with `weights_only`, and a file that
needs more is refused with the reason.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitcompress.errors import LoadError

ENVELOPES = (
    "model_state_dict",
    "state_dict",
    "params_ema",
    "params-ema",
    "params",
    "model",
    "net",
)
"""Keys under which trainers put the weights, the one to prefer first."""

PREFIXES = ("module.", "netG.", "_orig_mod.")
"""Prefixes that wrappers put before every key."""

CONFIG_KEY = "__config__"
"""The safetensors metadata entry that may hold the architecture and its hyper-parameters."""

PACKED = (
    "is a packed model already: give the float checkpoint that it was made from; "
    "`bitcompress inspect` and `run` take the folder"
)

_INFLATION = 64
"""A file of n bytes may hold at most this many times n bytes of tensors."""

_ONNX_TAGS = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42")


def digest(path: Path) -> str:
    """The sha256 of a file in hexadecimal."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def kind_of(path: Path) -> str:
    """What a file is by its content: "torch", "pickle", "safetensors", "pt2".

    Raises: LoadError for everything else, naming what the file is and what to do.
    """
    if not path.exists():
        raise LoadError(f"{path} does not exist: check the path of the checkpoint")
    if not path.is_file():
        packed = (path / "manifest.json").is_file()
        raise LoadError(
            f"{path} {PACKED if packed else 'is a folder: give the checkpoint file inside of it'}"
        )
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise LoadError(f"{path} cannot be read ({error.strerror}): check its rights") from error
    if not head:
        raise LoadError(f"{path} is empty: the download or the save was cut off; get it again")
    if head[:4] == b"PK\x03\x04":
        return _kind_of_zip(path)
    if path.suffix == ".safetensors" or _looks_like_safetensors(head, path.stat().st_size):
        return "safetensors"
    if head[0] == 0x80:
        return "pickle"
    raise LoadError(f"{path} {_strange(path, head)}")


def _looks_like_safetensors(head: bytes, total: int) -> bool:
    if len(head) < 10:
        return False
    (length,) = struct.unpack("<Q", head[:8])
    return 2 <= length <= total - 8 and head[8:9] == b"{"


def _strange(path: Path, head: bytes) -> str:
    """Why a file that is no checkpoint is none, and the remedy."""
    onnx = head[0] == 0x08 and len(head) > 2 and 2 < head[1] < 32 and head[2] in _ONNX_TAGS
    if path.suffix == ".onnx" or onnx:
        return (
            "is an ONNX file: its weights are already part of a graph; give the PyTorch checkpoint "
            "(.pth, .safetensors) or the exported program (.pt2) that it was made from"
        )
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: run `git lfs pull`"
    if all(byte in b"\t\n\r\f" or byte >= 0x20 for byte in head) and b"\x7f" not in head:
        try:
            head.decode("utf-8", errors="strict" if len(head) < 4096 else "ignore")
        except UnicodeDecodeError:
            pass
        else:
            return (
                "is a text file, not a checkpoint: a download may have saved an error page; get "
                "the file again"
            )
    return (
        "is no checkpoint: it is neither a torch file (zip or pickle) nor safetensors nor an "
        "exported program; check that it is the right file and complete"
    )


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise LoadError(
            f"{path} is a damaged or cut-off zip file ({error}): get it again"
        ) from error
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise LoadError(
            f"{path} is a TorchScript file: its code is frozen and cannot be rewritten; save the "
            "state_dict() of the Python model, or export it with torch.export to a .pt2 file"
        )
    if "archive_format" in inner or "serialized_exported_program.json" in set(names) | inner:
        return "pt2"
    if "data.pkl" in inner:
        return "torch"
    raise LoadError(
        f"{path} is a zip file without a torch checkpoint in it: unzip it and give the file inside"
    )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Raises: LoadError if damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("format") == "bitcompress":
                raise LoadError(f"{path} {PACKED}")
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise LoadError(f"{path} is a damaged safetensors file ({error}): get it again") from error


def description(arch: str, config: Mapping[str, Any]) -> dict[str, str]:
    """The metadata entry by which a safetensors file says what network it holds."""
    return {CONFIG_KEY: json.dumps({"arch": arch, "config": dict(config)})}


def stored_config(path: Path, metadata: dict[str, str]) -> tuple[str | None, dict[str, Any]]:
    """Architecture and hyper-parameters that a safetensors file says of itself.

    Raises: LoadError where the entry is there and not {"arch": name, "config": {...}}.
    """
    if CONFIG_KEY not in metadata:
        return None, {}
    try:
        entry = json.loads(metadata[CONFIG_KEY])
    except json.JSONDecodeError as error:
        raise LoadError(
            f"{path}: metadata {CONFIG_KEY!r} is no JSON ({error}); remove it"
        ) from error
    arch, config = (
        (entry.get("arch"), entry.get("config", {})) if isinstance(entry, dict) else (0, 0)
    )
    if not isinstance(arch, str | None) or not isinstance(config, dict):
        raise LoadError(
            f'{path}: metadata {CONFIG_KEY!r} is not {{"arch": name, "config": {{...}}}}: remove it'
        )
    return arch, config


def unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict inside of what a trainer saved: envelopes opened, wrapper prefixes gone.

    Raises: LoadError where there are no tensors.
    """
    for _ in range(4):
        if not isinstance(content, dict):
            break
        inner = next((content[k] for k in ENVELOPES if isinstance(content.get(k), dict)), None)
        if inner is None and len(content) == 1:
            (only,) = content.values()
            inner = only if isinstance(only, dict) else None
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict):
        raise LoadError(
            f"{path} holds a {type(content).__name__}, not a dict of tensors: save "
            "model.state_dict()"
        )
    state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not state:
        names = ", ".join(repr(key) for key in list(content)[:5]) or "nothing"
        raise LoadError(f"{path} holds no tensors, but {names}: save model.state_dict()")
    return strip_prefixes(state)


def strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without a wrapper's prefix, where every key has it."""
    while True:
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None)
        if prefix is None:
            return state
        state = {key.removeprefix(prefix): value for key, value in state.items()}


def check_tensors(state: dict[str, Tensor], path: Path) -> None:
    """Refuse what is no honest weight: sparse, quantized, NaN, infinite, larger than the file.

    Raises: LoadError that names the first such tensor.
    """
    claimed = sum(t.numel() * t.element_size() for t in state.values())
    held = path.stat().st_size
    if claimed > _INFLATION * held + (1 << 20):
        raise LoadError(
            f"{path} has {held} bytes but claims {claimed} bytes of tensors: it is damaged or made "
            "to exhaust the memory"
        )
    for key, value in state.items():
        if value.is_meta:
            raise LoadError(
                f"{path}: tensor {key!r} was saved on the meta device and has no numbers: save the "
                "weights themselves"
            )
        if value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise LoadError(
                f"{path}: tensor {key!r} is {value.dtype} {value.layout}, not dense real numbers: "
                "give the float checkpoint"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = "NaN" if bool(torch.isnan(value).any()) else "an infinite value"
            raise LoadError(
                f"{path}: tensor {key!r} holds {bad}: the training diverged or the file is damaged"
            )
