"""What `bench model` times: the two models of a packed folder, and inputs of any size for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitcompress.api import example_for
from bitcompress.artifact import LoadedPacked, Source, describe
from bitcompress.bench.model import Subject, quality_of, widths
from bitcompress.cli.pictures import opened_folder
from bitcompress.data.calibration import packaged_calibration
from bitcompress.data.images import read_image
from bitcompress.data.layout import picture_files
from bitcompress.errors import UsageError
from bitcompress.models import MODELS
from bitcompress.models.foreign import from_factory

UNTRAINED = "the float model has random weights"
BATCHES = 4
"""Inputs that int8 is calibrated on."""


def opened_pair(
    folder: Path, file: Path | None, arch: str | None, unsafe: bool
) -> tuple[LoadedPacked, nn.Module, bool]:
    """The packed model, its float model, and whether that has its weights.

    Without the float file a network that is known is built with random weights: they do not
    change its time.
    """
    loaded, full = opened_folder(folder, file, arch, unsafe)
    if full is not None:
        return loaded, full.model.eval(), True
    source = loaded.source
    torch.manual_seed(0)
    if source.arch in MODELS:
        return loaded, MODELS[source.arch].build(**dict(source.config)).eval(), False
    return loaded, from_factory(arch or source.arch, source.config).eval(), False


def subject_of(
    folder: Path, file: Path | None, arch: str | None, unsafe: bool, untrained: bool
) -> tuple[Subject, Source]:
    """What is timed, and where it comes from."""
    loaded, full, real = opened_pair(folder, file, arch, unsafe)
    weight_bits, act_bits = widths(describe(folder)["layers"])
    drop, where = (None, UNTRAINED) if untrained else quality_of(loaded.report)
    name = loaded.source.arch or loaded.source.class_name
    scale = "" if loaded.source.scale is None else f" x{loaded.source.scale}"
    made = Subject(
        name=f"{name}{scale}", packed=loaded.model, float_model=full, weight_bits=weight_bits,
        act_bits=act_bits, recipe=loaded.recipe, trained=real and not untrained,
        psnr_drop_db=drop, psnr_set=where,
    )  # fmt: skip
    return made, loaded.source


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
