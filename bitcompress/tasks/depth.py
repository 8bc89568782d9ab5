"""The task of depth: a distance for each pixel, the scale-invariant loss, delta and errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitcompress.data.depths import MILLIMETRE, open_depths
from bitcompress.data.maps import Maps, Windows
from bitcompress.errors import DataError, ShapeError
from bitcompress.measure.depth import depth_figures, silog_loss
from bitcompress.tasks.base import Request
from bitcompress.tasks.dense import checked
from bitcompress.tasks.maps import Dense, crop_of, fingerprint_of, window_batches
from bitcompress.train import BatchSource


@dataclass(frozen=True)
class Depth(Dense):
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

    def batches(self, batch: int, seed: int, micro: int | None = None) -> BatchSource:
        """Windows of pictures and depths."""
        cut = Windows(self.crop, outside=0.0)
        return window_batches(
            self.train, cut, self.image_range, batch, seed, micro, torch.from_numpy
        )

    def apart(self, told: Tensor, truth: Tensor) -> Tensor:
        """The scale-invariant loss over the pixels whose depth is known."""
        return silog_loss(told, truth)

    def unlike(self, told: Tensor, goal: Tensor) -> Tensor:
        """The same to the teacher's map."""
        return silog_loss(told, goal)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """delta1..3, abs_rel, rmse, log10, silog: the means over pictures."""
        rows = [depth_figures(t, torch.from_numpy(truth)) for t, truth in self.answers(model)]
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}

    def config(self) -> dict[str, Any]:
        """What a picture of the answer needs."""
        return {"image_range": self.image_range}

    def told(self, output: object, picture: Tensor) -> Tensor:
        """Depths (N, H, W)."""
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
    return Depth(
        train,
        test,
        image_range=request.image_range,
        fingerprint=fingerprint_of(train, test),
        **options,
    )
