"""What segmentation and depth share: pictures with a map each, windows of both as batches."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from bitcompress.data.draws import Indices
from bitcompress.data.maps import Maps, Windows
from bitcompress.errors import UsageError
from bitcompress.tasks.apply import apply
from bitcompress.tasks.base import (
    SAMPLES,
    Batch,
    Pixels,
    Task,
    device_of,
    evaluating,
    on_device,
    shared_out,
    taught,
)
from bitcompress.tasks.dense import planes
from bitcompress.train import BatchSource


class Dense(Task):
    """A task whose model says something of every pixel: trained on windows, measured on pictures.

    A model takes (N, 3, H, W) in 0..image_range.
    """

    train: Maps[Any]
    test: Maps[Any]
    image_range: float
    crop: tuple[int, int]
    distill: float

    @abstractmethod
    def told(self, output: object, picture: Tensor) -> Tensor:
        """What a model said of pictures. Raises: ShapeError for what the task cannot read."""

    @abstractmethod
    def apart(self, told: Tensor, truth: Tensor) -> Tensor:
        """The loss beside the truth."""

    @abstractmethod
    def unlike(self, told: Tensor, goal: Tensor) -> Tensor:
        """The loss beside what the teacher said."""

    def loss(self, student: nn.Module, batch: Batch, teacher: nn.Module | None = None) -> Tensor:
        """(1 - distill) of that beside the truth, distill of that beside the teacher."""
        batch = on_device(student, batch)
        picture = batch["picture"]
        told = self.told(student(picture), picture)
        loss = self.apart(told, batch["map"])
        if teacher is None or not self.distill:
            return loss
        goal = self.told(taught(teacher, picture), picture)
        return (1 - self.distill) * loss + self.distill * self.unlike(told, goal)

    def example(self, model: nn.Module) -> tuple[Tensor]:
        """Two windows."""
        batch = self.batches(2, 0)(0, 0, 1)[0][1]
        return (batch["picture"].to(device_of(model)),)

    def answers(self, model: nn.Module) -> Iterator[tuple[Tensor, NDArray[Any]]]:
        """What a model in eval mode says of each held-out picture, and the truth."""
        with evaluating(model):
            for index in range(len(self.test)):
                picture, truth = self.test.pair(index)
                x = planes(picture[None], self.image_range).to(device_of(model))
                yield self.told(model(x), x)[0].cpu(), truth

    def size(self) -> int:
        """Training pictures."""
        return len(self.train)

    def samples(self, model: nn.Module) -> list[tuple[str, Pixels]]:
        """The answers as pictures."""
        names = self.test.names[:SAMPLES]
        made = [
            (name, apply(self.name, self.config(), model, self.test.pair(i)[0]))
            for i, name in enumerate(names)
        ]
        return [(name, found.picture) for name, found in made if found.picture is not None]


def fingerprint_of(*parts: Maps[Any], also: str = "") -> str:
    """What pictures and maps are, as a digest of all their numbers."""
    seen = hashlib.sha256(also.encode())
    for maps in parts:
        for index in range(len(maps)):
            picture, numbers = maps.pair(index)
            seen.update(picture.tobytes() + numbers.tobytes())
    return seen.hexdigest()


def window_batches(
    maps: Maps[Any], cut: Windows, image_range: float, batch: int, seed: int, micro: int | None,
    convert: Callable[[NDArray[Any]], Tensor],
) -> BatchSource:  # fmt: skip
    """Batches {"picture", "map"} of random windows; `convert` makes the tensor of the maps."""

    def make(step: int, places: Indices) -> Batch:
        pictures, told = maps.batch(seed, step, batch, places, cut)
        return {"picture": planes(pictures, image_range), "map": convert(told)}

    return shared_out(batch, micro, make)


def crop_of(value: Any) -> tuple[int, int]:
    """A crop as height and width, given as both or as one number. Raises: UsageError."""
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or not all(isinstance(s, int) and s > 0 for s in sides):
        raise UsageError(
            f"the crop {value} is no height and width: give one or two numbers above 0"
        )
    return sides[0], sides[1]
