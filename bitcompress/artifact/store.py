"""Saving and loading packed models, and what they take on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from bitcompress.artifact import checks, folder, kinds
from bitcompress.artifact.blobs import Writer
from bitcompress.artifact.decode import assemble, check_version, decode
from bitcompress.artifact.encode import FORMAT_VERSION, Walk, encode
from bitcompress.artifact.source import Source
from bitcompress.artifact.structure import Content
from bitcompress.errors import LoadError
from bitcompress.graph.intercept import Rewritten

MAX_REPORT = 1 << 26


class _Named(Protocol):
    name: str


class _Recipe(Protocol):
    @property
    def metadata(self) -> _Named: ...

    def to_yaml(self) -> str: ...


class Saveable(Protocol):
    """What `save` takes: the result of `bitcompress.quantize`."""

    @property
    def model(self) -> Rewritten: ...

    @property
    def source(self) -> Source: ...

    @property
    def edits(self) -> Sequence[Mapping[str, Any]]: ...

    @property
    def recipe(self) -> Any: ...

    @property
    def report(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class LoadedPacked:
    """A packed model from a folder."""

    model: Rewritten
    """In eval mode, on the CPU."""
    source: Source
    report: dict[str, Any] | None
    """report.json, where it lies in the folder."""
    recipe: str
    """The name of the recipe that made it."""
    library: str
    """The version of bitcompress that wrote it."""


def save(
    result: Saveable,
    path: str | Path,
    overwrite: bool = False,
    *,
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Write a result as a folder; `extra` are further files for it (report.md, report.png).

    Raises: OutputError where the folder exists (and `overwrite` is not given), is a file, is being
    written by somebody else, or the disk refuses; then nothing half-written is left.
    """
    name = result.recipe.metadata.name
    files = {
        folder.MODEL: encode(result.model, result.source, result.edits, name),
        "recipe.yaml": result.recipe.to_yaml().encode(),
        "report.json": _report_text(result.report),
        **(extra or {}),
    }
    folder.write(Path(path), files, FORMAT_VERSION, overwrite=overwrite)


def save_model(
    model: Rewritten,
    source: Source,
    path: str | Path,
    *,
    edits: Iterable[Mapping[str, Any]] = (),
    recipe: str = "",
    overwrite: bool = False,
) -> None:
    """Write a packed model alone: model.safetensors and manifest.json, all that `load` needs.

    Raises: as `save`.
    """
    files = {folder.MODEL: encode(model, source, edits, recipe)}
    folder.write(Path(path), files, FORMAT_VERSION, overwrite=overwrite)


def load(
    path: str | Path, model: nn.Module | None = None, *, trust_arch: bool = False
) -> LoadedPacked:
    """The packed model in a folder.

    model: an instance of the float model, for files that were made from a live module, an exported
    program or a foreign class; it is copied, and its weights do not matter.
    trust_arch: let the file name the "pkg.mod:factory" that is imported and called.
    Raises: LoadError where the folder is unfinished or damaged, or where the file and the model do
    not have the same layers and tensors.
    """
    content, rows, place = opened(path)
    packed = assemble(content, model=model, trust_arch=trust_arch)
    report = None
    if "report.json" in rows and (place / "report.json").exists():
        data = folder.read_checked(place, "report.json", _limited(rows["report.json"]))
        report = checks.table(checks.parse(data, "report.json"), "report.json")
    index = content.index
    return LoadedPacked(packed, index.source, report, index.recipe, index.library)


def opened(path: str | Path) -> tuple[Content, dict[str, dict[str, Any]], Path]:
    """The content of a folder, the rows of its manifest, and where it is. Raises: LoadError."""
    place = Path(path)
    if place.name == folder.MODEL and place.is_file():
        place = place.parent
    version, rows = folder.read_manifest(place)
    check_version(version, str(place))
    if folder.MODEL not in rows:
        raise LoadError(f"{place / folder.MANIFEST} does not name {folder.MODEL}: it is damaged")
    data = folder.read_checked(place, folder.MODEL, rows[folder.MODEL])
    return decode(data, str(place / folder.MODEL)), rows, place


def _limited(row: Mapping[str, Any]) -> Mapping[str, Any]:
    if row["bytes"] > MAX_REPORT:
        raise LoadError("report.json is too long to be one: remove it")
    return row


def layer_bytes(model: Rewritten) -> dict[str, int]:
    """What each replaced layer and product takes in the file, by site name, headers aside."""
    writer, sizes = Writer(), {}
    found = {n: m for n, m in Walk().visit(model.net).found.items() if isinstance(m, nn.Module)}
    found |= {key.replace("/", "."): module for key, module in model.products.items()}
    for name, layer in found.items():
        before = writer.total
        kinds.put(writer, layer, name)
        sizes[name] = writer.total - before
    return sizes


def packed_bytes(
    model: Rewritten,
    source: Source,
    edits: Iterable[Mapping[str, Any]] = (),
    recipe: str = "",
) -> int:
    """The size on disk of model.safetensors and manifest.json, all that `load` needs.

    It is known before they are written, and the same whichever reports lie beside them.
    """
    data = encode(model, source, edits, recipe)
    return len(data) + len(folder.manifest({folder.MODEL: data}, FORMAT_VERSION))


def _report_text(report: Mapping[str, Any]) -> bytes:
    return (json.dumps(jsonable(report), indent=1, allow_nan=False) + "\n").encode()


def jsonable(value: Any) -> Any:
    """The same without numbers that JSON cannot hold: infinite and NaN become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    return value
