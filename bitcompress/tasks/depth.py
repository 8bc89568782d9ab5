"""The task of depth: a distance for each pixel, the scale-invariant loss, delta and errors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitcompress.data.depths import MILLIMETRE, open_depths
from bitcompress.data.maps import Maps, Windows
from bitcompress.errors import DataError, ShapeError
from bitcompress.measure.depth import depth_figures, silog_loss
from bitcompress.tasks.apply import apply
from bitcompress.tasks.base import (
    SAMPLES,
    Batch,
    Pixels,
    Request,
    Task,
    device_of,
    evaluating,
    on_device,
    taught,
)
from bitcompress.tasks.dense import checked, crop_of, planes, window_batches
from bitcompress.train import BatchSource


@dataclass(frozen=True)
class Depth(Task):
    """Pictures to a distance for each pixel.

    A model takes (N, 3, H, W) in 0..image_range and gives (N, 1, H, W) in metres. Windows are
    mirrored, not scaled: a larger picture of a thing is a nearer thing. With a teacher the loss is
    (1 - distill) of the scale-invariant one and distill of the same to the teacher's map.
    """

    name = "depth"
    metric = "delta1"
    higher_is_better = True

    train: Maps[np.float32]
    test: Maps[np.float32]
    image_range: float = 1.0
    crop: tuple[int, int] = (192, 256)
    distill: float = 0.5
    fingerprint: str = ""

    def example(self, model: nn.Module) -> tuple[Tensor]:
        """Two windows."""
        batch = self.batches(2, 0)(0, 0, 1)[0][1]
        return (batch["picture"].to(device_of(model)),)

    def batches(self, batch: int, seed: int, micro: int | None = None) -> BatchSource:
        """Windows of pictures and depths."""
        cut = Windows(self.crop, outside=0.0)
        return window_batches(
            self.train, cut, self.image_range, batch, seed, micro, torch.from_numpy
        )

    def loss(self, student: nn.Module, batch: Batch, teacher: nn.Module | None = None) -> Tensor:
        """The scale-invariant loss over the pixels whose depth is known."""
        batch = on_device(student, batch)
        told = self._depth(student(batch["picture"]), batch["picture"])
        loss = silog_loss(told, batch["map"])
        if teacher is None or not self.distill:
            return loss
        goal = self._depth(taught(teacher, batch["picture"]), batch["picture"])
        return (1 - self.distill) * loss + self.distill * silog_loss(told, goal)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """delta1..3, abs_rel, rmse, log10, silog: the means over pictures."""
        rows = []
        with evaluating(model):
            for index in range(len(self.test)):
                picture, truth = self.test.pair(index)
                x = planes(picture[None], self.image_range).to(device_of(model))
                told = self._depth(model(x), x)[0].cpu()
                rows.append(depth_figures(told, torch.from_numpy(truth)))
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}

    def size(self) -> int:
        """Training pictures."""
        return len(self.train)

    def samples(self, model: nn.Module) -> list[tuple[str, Pixels]]:
        """The depths in greys."""
        names = self.test.names[:SAMPLES]
        made = [
            (name, apply("depth", self.config(), model, self.test.pair(i)[0]))
            for i, name in enumerate(names)
        ]
        return [(name, found.picture) for name, found in made if found.picture is not None]

    def config(self) -> dict[str, Any]:
        """What a picture of the answer needs."""
        return {"image_range": self.image_range}

    def _depth(self, output: object, picture: Tensor) -> Tensor:
        told = checked(output, picture, "depths").float()
        if told.shape[1] != 1:
            raise ShapeError(
                f"the model gives {told.shape[1]} numbers a pixel, where depth is one: give a "
                "model with a depth head"
            )
        return told[:, 0]


def open_depth(request: Request) -> Depth:
    """The task of a folder of pictures and depths, or of the stereo pair of scikit-image.

    Raises: DataError as `open_depths`, and without data.
    """
    if request.data is None:
        raise DataError(
            "depth needs pictures and depths: give --data with a folder of both, or the word stereo"
        )
    options = dict(request.options)
    unit = float(options.pop("unit", MILLIMETRE))
    train, test = open_depths(request.data, unit)
    if request.held is not None:
        _, test = open_depths(request.held, unit)
    if "crop" in options:
        options["crop"] = crop_of(options["crop"])
    seen = hashlib.sha256()
    for maps in (train, test):
        for index in range(len(maps)):
            picture, depth = maps.pair(index)
            seen.update(picture.tobytes() + depth.tobytes())
    return Depth(
        train, test, image_range=request.image_range, fingerprint=seen.hexdigest(), **options
    )
