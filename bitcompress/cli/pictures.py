"""What `run` and `measure` do once their options are parsed: a packed model meets pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click
from torch import nn

from bitcompress import api
from bitcompress.artifact import LoadedPacked, Source, describe, load
from bitcompress.artifact.folder import MANIFEST, MODEL
from bitcompress.backends.runner import OVERLAP, FileModel, Told
from bitcompress.cli import shown
from bitcompress.cli.binary_run import is_binary, run_task
from bitcompress.cli.quantize import open_set
from bitcompress.data.folders import PictureSet
from bitcompress.data.images import SUFFIXES, check_target, read_image, write_image
from bitcompress.data.layout import picture_files
from bitcompress.errors import DataError, LoadError, OutputError, UsageError
from bitcompress.measure.cost import float_bytes
from bitcompress.measure.evaluate import evaluate
from bitcompress.measure.speed import measure_speed
from bitcompress.memory import keep_large_blocks
from bitcompress.models import MODELS
from bitcompress.models.foreign import from_factory
from bitcompress.models.load import Loaded, load_model
from bitcompress.models.targets import builder_of
from bitcompress.tiles import run_picture


def _float(
    folder: Path, source: Source, file: Path | None, arch: str | None, unsafe: bool
) -> Loaded | None:
    """The float model of --float, and whether it is the one that the folder was made from."""
    if file is None:
        return None
    factory = arch or (source.arch if source.arch in MODELS else None)
    config = source.config if factory is not None and factory == source.arch else None
    plain = factory is None or factory in MODELS
    loaded = load_model(
        file, arch=None if plain else factory, config=None if plain else config,
        unsafe_pickle=unsafe,
    )  # fmt: skip
    if source.sha256 and loaded.sha256 != source.sha256:
        shown.note(f"{file} is not the file that {folder} was made from: its sha256 differs")
    return loaded


def opened_folder(
    folder: Path, file: Path | None, arch: str | None, unsafe: bool
) -> tuple[LoadedPacked, Loaded | None]:
    """The packed model, and the float one where it was given.

    Raises: LoadError saying which option is needed, where the folder alone is not enough.
    """
    keep_large_blocks()
    source = Source.from_json(describe(folder)["source"])
    full = _float(folder, source, file, arch, unsafe)
    skeleton: nn.Module | None = None
    if builder_of(source.arch) is None:
        if full is not None:
            skeleton = full.model
        elif arch is not None:
            skeleton = from_factory(arch, source.config)
        else:
            raise LoadError(f"{folder} holds no code: {_needed(source)}")
    return load(folder, skeleton), full


def _needed(source: Source) -> str:
    if ":" in source.arch and not source.arch.startswith("spandrel:"):
        return f"say who builds the network with --arch (it was {source.arch})"
    if source.arch:
        return "give the float file that it was made from with --float"
    return (
        f"it was made in Python from a {source.class_name}; use bitcompress.load(folder, model=...)"
        ", or say who builds the network with --arch"
    )


def run_pictures(
    folder: Path,
    picture: Path,
    output: Path | None,
    *,
    tile: int,
    overlap: int,
    limit: int,
    float_file: Path | None,
    arch: str | None,
    unsafe_pickle: bool,
    quiet: bool,
    progress: Any,
) -> None:
    """`bitcompress run`."""
    jobs = _jobs(picture, output) if output is not None else []
    loaded, source = _runner(folder, float_file, arch, unsafe_pickle)
    if source.scale is None and isinstance(loaded, LoadedPacked) and is_binary(loaded):
        run_task(loaded, picture, jobs)
        return
    model = loaded.model if isinstance(loaded, LoadedPacked) else loaded
    if output is None:
        raise UsageError("give --output, the picture to write")
    if source.scale is None:
        raise UsageError(
            f"{folder} does not make pictures; use its model in Python: bitcompress.load"
        )
    skipped: list[tuple[Path, str]] = []
    for number, (path, target) in enumerate(jobs):
        try:
            pixels = read_image(path)
        except DataError as error:
            if not picture.is_dir():
                raise
            skipped.append((path, str(error)))
            continue
        made = run_picture(
            model, pixels, scale=source.scale, image_range=source.image_range,
            **_tiles(source, tile, overlap, limit),
        )  # fmt: skip
        write_image(target, made)
        if progress is not None and len(jobs) > 1:
            progress("run", number + 1, len(jobs))
        click.echo(f"{target}: {made.shape[1]}x{made.shape[0]}")
    if len(skipped) == len(jobs):
        raise DataError(f"{picture}: no usable picture ({skipped[0][1]})")
    shown.left_out(skipped, quiet)


def _runner(
    folder: Path, file: Path | None, arch: str | None, unsafe: bool
) -> tuple[LoadedPacked | FileModel, Source | Told]:
    """The model of a packed folder or of an exported file, and what it says of pictures."""
    if folder.suffix == ".onnx":
        exported = FileModel(folder)
        return exported, exported.told
    loaded, _ = opened_folder(folder, file, arch, unsafe)
    return loaded, loaded.source


def _tiles(source: Source | Told, tile: int, overlap: int, limit: int) -> dict[str, int]:
    """How a picture is cut; a file of one size says it itself."""
    side = source.side if isinstance(source, Told) else 0
    if not side:
        return {"tile": tile, "overlap": overlap, "limit": limit}
    return {"tile": side, "overlap": side // OVERLAP, "limit": 0}


def _jobs(picture: Path, output: Path) -> list[tuple[Path, Path]]:
    """Which picture goes where. Raises: UsageError, DataError, OutputError before any work."""
    if picture.resolve() == output.resolve():
        raise UsageError(f"{output} would be overwritten by what is made of it: name another place")
    if not picture.is_dir():
        if output.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{output}: give a picture to write, e.g. big.png")
        check_target(output)
        return [(picture, output)]
    files = picture_files(picture)
    if not files:
        raise DataError(f"{picture} holds no picture")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be made a folder: {error.strerror}") from error
    stems = Counter(file.stem for file in files)
    return [
        (file, output / f"{file.stem if stems[file.stem] == 1 else file.name}.png")
        for file in files
    ]


def _unseen(pictures: PictureSet, report: Mapping[str, Any] | None) -> PictureSet:
    """The set without the pictures that the model was calibrated on, as its report tells.

    Raises: DataError if none is left.
    """
    left = pictures.without_known(set((report or {}).get("calibration_pictures", ())))
    if not left.items:
        raise DataError(
            f"{pictures.name}: the model was calibrated on every picture of it; score others"
        )
    return left


def run_measure(
    folder: Path,
    sets: tuple[Path, ...],
    *,
    float_file: Path | None,
    arch: str | None,
    unsafe_pickle: bool,
    data_kind: Literal["auto", "hr", "lr", "pairs"],
    as_json: bool,
    quiet: bool,
    progress: Any,
) -> None:
    """`bitcompress measure`."""
    loaded, full = opened_folder(folder, float_file, arch, unsafe_pickle)
    source = loaded.source
    if source.scale is None:
        what = "classifies" if source.task == "classify" else "does not make pictures"
        raise UsageError(f"measure scores enlarged pictures; the model of {folder} {what}")
    chosen: list[PictureSet] = []
    for path in sets:
        pictures = open_set(path, source.scale, data_kind, [s.name for s in chosen])
        chosen.append(_unseen(pictures, loaded.report))
        shown.left_out(chosen[-1].skipped, quiet)
    packed_bytes = sum((folder / name).stat().st_size for name in (MODEL, MANIFEST))
    report: dict[str, Any] = {"size": {"packed_bytes": packed_bytes}, "quality": {}}
    float_model = None if full is None else full.model
    if float_model is None:
        report["note"] = "no --float: only the packed model is measured"
        shown.note(report["note"], quiet or as_json)
    else:
        real = float_bytes(float_model)
        report["size"] |= {"float_bytes": real, "ratio": real / packed_bytes}
    for pictures in chosen:
        report["quality"][pictures.name], _ = evaluate(
            loaded.model, float_model, pictures, scale=source.scale,
            image_range=source.image_range, progress=progress,
        )  # fmt: skip
    report["speed"] = measure_speed(float_model, loaded.model, api.example_for(source), repeats=5)
    if as_json:
        shown.as_json(report)
        return
    shown.size(report["size"])
    shown.quality(report["quality"])
    shown.speed(report["speed"])
