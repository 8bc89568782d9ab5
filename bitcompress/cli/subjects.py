"""What `bench model` times: a packed folder or an exported file, its float model, and inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitcompress.api import example_for
from bitcompress.artifact import LoadedPacked, Source, describe
from bitcompress.artifact.folder import MANIFEST
from bitcompress.backends.runner import FileModel
from bitcompress.bench.files import widths_of_file
from bitcompress.bench.model import Subject, quality_of, widths
from bitcompress.cli.pictures import opened_folder
from bitcompress.data.calibration import packaged_calibration
from bitcompress.data.images import read_image
from bitcompress.data.layout import picture_files
from bitcompress.errors import LoadError, UsageError
from bitcompress.models import MODELS
from bitcompress.models.foreign import from_factory
from bitcompress.models.load import load_model

UNTRAINED = "the float model has random weights"
NO_FOLDER = "the packed folder, whose report has the PSNR, does not lie beside the file"
BATCHES = 4
"""Inputs that int8 is calibrated on."""


@dataclass(frozen=True)
class Opened:
    """A packed model of a folder or a file, and the float model beside it where there is one."""

    model: nn.Module
    source: Source
    full: nn.Module | None
    trained: bool
    """Whether the float model has its own weights: random ones take as long, and no more."""
    folder: LoadedPacked | None
    missing: str = ""
    """Why there is no float model."""


def opened(
    place: Path, file: Path | None, arch: str | None, unsafe: bool, threads: int | None = None
) -> Opened:
    """The packed model of a folder or of an exported file, and its float model.

    Without the float file a network that is known is built with random weights: they do not
    change its time. That of a file is known from the folder that it lies in.
    Raises: LoadError, Unavailable.
    """
    if place.suffix != ".onnx":
        return _of_folder(place, file, arch, unsafe)
    exported = FileModel(place, threads=threads, spin=False)
    missing = f"{place.parent} is no packed folder that the file came from"
    if (place.parent / MANIFEST).is_file():
        try:
            beside = _of_folder(place.parent, file, arch, unsafe)
        except LoadError as error:
            if file is not None:
                raise
            missing = str(error)
        else:
            return replace(beside, model=exported)
    told = exported.told
    source = Source("", {}, told.task, told.scale, told.image_range, "", "")
    if file is None:
        missing = f"no float model, for --float names none: {missing}"
        return Opened(exported, source, None, False, None, missing)
    full = load_model(file, arch=arch, unsafe_pickle=unsafe).model.eval()
    return Opened(exported, source, full, True, None)


def _of_folder(folder: Path, file: Path | None, arch: str | None, unsafe: bool) -> Opened:
    loaded, given = opened_folder(folder, file, arch, unsafe)
    source = loaded.source
    if given is not None:
        return Opened(loaded.model, source, given.model.eval(), True, loaded)
    torch.manual_seed(0)
    if source.arch in MODELS:
        full = MODELS[source.arch].build(**dict(source.config)).eval()
    else:
        full = from_factory(arch or source.arch, source.config).eval()
    return Opened(loaded.model, source, full, False, loaded)


def subject_of(
    place: Path, file: Path | None, arch: str | None, unsafe: bool, untrained: bool, threads: int
) -> tuple[Subject, Source]:
    """What is timed, and where it comes from."""
    found = opened(place, file, arch, unsafe, threads)
    source, loaded, is_file = found.source, found.folder, place.suffix == ".onnx"
    drop, where = (None, UNTRAINED) if untrained else (None, NO_FOLDER)
    if loaded is not None:
        folder = place.parent if is_file else place
        weight_bits, act_bits = widths(describe(folder)["layers"])
        if not untrained:
            drop, where = quality_of(loaded.report)
    else:
        weight_bits, act_bits = widths_of_file(place)
    name = source.arch or source.class_name or "a network"
    scale = "" if source.scale is None else f" x{source.scale}"
    made = Subject(
        name=f"{name}{scale}" + (f" ({place.name})" if is_file else ""), packed=found.model,
        float_model=found.full, weight_bits=weight_bits, act_bits=act_bits,
        recipe=loaded.recipe if loaded is not None else "", trained=found.trained and not untrained,
        psnr_drop_db=drop, psnr_set=where, missing=found.missing,
        in_torch=loaded.model if is_file and loaded is not None else None,
    )  # fmt: skip
    return made, source


def examples_of(source: Source, sides: Sequence[int], inputs: dict[str, Any] | None) -> list[Any]:
    """One input a size.

    Raises: UsageError where the inputs of the network are not known and not given.
    """
    if inputs is not None:
        return [tuple(inputs.values()) if source.arch == "pt2" else inputs]
    if source.task is None and source.scale is None:
        raise UsageError("the inputs of this network are not known: give --input NAME=1x3x64x64")
    return [example_of(source, side) for side in sides]


def example_of(source: Source, side: int, number: int = 0) -> Tensor:
    """A square of a packaged picture, mirrored on where it is too small; seeded noise of its own
    size for a network that does not enlarge pictures.

    Shapes: (1, 3, side, side) in the network's own range.
    """
    if source.scale is None:
        x: Tensor = example_for(source)
        return x
    files = picture_files(packaged_calibration())
    pixels = read_image(files[number % len(files)])
    while min(pixels.shape[:2]) < side:
        more = [(0, min(size, side)) for size in pixels.shape[:2]]
        pixels = np.pad(pixels, (*more, (0, 0)), mode="symmetric")
    cut = np.ascontiguousarray(pixels[:side, :side].transpose(2, 0, 1))
    return torch.from_numpy(cut)[None].float().div_(255).mul_(source.image_range)


def batches_like(source: Source, example: Any) -> list[Any]:
    """What int8 is calibrated on: pictures of the size of an example, or the example itself."""
    if source.scale is None or not isinstance(example, Tensor):
        return [example]
    return [example_of(source, int(example.shape[-1]), number) for number in range(BATCHES)]
