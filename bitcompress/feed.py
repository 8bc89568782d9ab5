"""Where calibration and training inputs come from: pictures, or batches that the caller has.

A feed hands out calibration batches, and for each training step the same inputs every time it is
asked: that is what makes a resumed run end where an unbroken one does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from bitcompress.data.folders import PictureSet
from bitcompress.data.patches import Patches
from bitcompress.errors import DataError
from bitcompress.graph.arguments import tensors_of
from bitcompress.recipe import Recipe

MAX_BATCHES = 64
"""How many of the caller's own batches are kept: memory must not grow with the data."""


class Feed(Protocol):
    """What the walk asks of its data."""

    description: str
    fingerprint: str
    seen: tuple[str, ...]
    """Digests of the pictures, so that a later run can tell what was calibrated on."""

    def calibration(self) -> Iterator[Any]:
        """The calibration batches."""

    def training(self, step: int, process: int, processes: int) -> Sequence[tuple[float, Any]]:
        """The micro-batches of a step for one process; weights sum to 1 on average."""


class PictureFeed:
    """Random patches of pictures, in the range that the model takes."""

    def __init__(
        self, pictures: PictureSet, recipe: Recipe, *, scale: int, image_range: float, seed: int
    ) -> None:
        self.recipe, self.image_range = recipe, image_range
        self.calibration_patches = Patches(
            pictures, size=recipe.calibration.patch, scale=scale, seed=seed
        )
        self.training_patches = Patches(
            pictures, size=recipe.train.patch, scale=scale, seed=seed + 1
        )
        self.description = f"{len(pictures.items)} pictures of {pictures.name}"
        self.seen = tuple(item.fingerprint() for item in pictures.items)
        self.fingerprint = hashlib.sha256(f"{','.join(self.seen)}|{seed}".encode()).hexdigest()

    def calibration(self) -> Iterator[Tensor]:
        """`calibration.patches` patches in batches of `calibration.batch`."""
        config = self.recipe.calibration
        for step, start in enumerate(range(0, config.patches, config.batch)):
            count = min(config.batch, config.patches - start)
            yield self.calibration_patches.batch(step, count) * self.image_range

    def training(self, step: int, process: int, processes: int) -> list[tuple[float, Tensor]]:
        """This process's share of the step's `train.batch` patches."""
        config = self.recipe.train
        patches = self.training_patches.batch(step, config.batch) * self.image_range
        share = patches[process::processes]
        if not len(share):
            raise DataError(
                f"train.batch is {config.batch}, fewer than the {processes} processes: "
                "give --set train.batch=N with at least one patch a process"
            )
        parts = torch.split(share, config.micro_batch or len(share))
        # Uneven shares: gradients are averaged over processes, yet each patch weighs the same.
        return [(len(part) * processes / len(patches), part) for part in parts]


class BatchFeed:
    """The caller's own batches: tensors, tuples of arguments, or dicts of keywords."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = list(islice(iter(batches), MAX_BATCHES))
        if not self.batches:
            raise DataError("data has no batch: give at least one input that the model takes")
        self.seen: tuple[str, ...] = ()
        self.description = f"{len(self.batches)} batches of the caller's own"
        digest = hashlib.sha256()
        for tensor in (t for batch in self.batches for t in tensors_of(batch)):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.detach().double().sum().numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    def calibration(self) -> Iterator[Any]:
        """Every batch once."""
        return iter(self.batches)

    def training(self, step: int, process: int, processes: int) -> list[tuple[float, Any]]:
        """One batch a process and step, in turn."""
        return [(1.0, self.batches[(step * processes + process) % len(self.batches)])]


def synthetic_example(shape: Sequence[int], image_range: float) -> Tensor:
    """A seeded input of a shape, for models without a picture at hand."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(*shape, generator=generator) * image_range
