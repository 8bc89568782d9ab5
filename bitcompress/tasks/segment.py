"""The task of segmentation: a class for each pixel, cross entropy without void, mean IoU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitcompress.data.labels import VOID, LabelMap
from bitcompress.data.maps import Maps, Windows
from bitcompress.data.segments import open_segments
from bitcompress.errors import DataError, ShapeError
from bitcompress.measure.segmentation import Confusion
from bitcompress.tasks.base import Request
from bitcompress.tasks.dense import checked
from bitcompress.tasks.maps import Dense, crop_of, fingerprint_of, window_batches
from bitcompress.train import BatchSource


@dataclass(frozen=True)
class Segment(Dense):
    """Pictures to a class for each pixel.

    A model takes (N, 3, H, W) in 0..image_range and gives logits (N, classes, H, W). It is trained
    on windows, scaled by 0.5 to 2 and mirrored, and measured on whole pictures. With a teacher the
    loss is (1 - distill) * cross entropy + distill * T^2 * KL(teacher || student) a pixel.
    """

    name = "segment"
    metric = "miou"
    higher_is_better = True

    train: Maps[np.uint8]
    test: Maps[np.uint8]
    labels: LabelMap
    image_range: float = 1.0
    crop: tuple[int, int] = (192, 256)
    scales: tuple[float, float] = (0.5, 2.0)
    distill: float = 0.5
    temperature: float = 1.0
    fingerprint: str = ""

    def batches(self, batch: int, seed: int, micro: int | None = None) -> BatchSource:
        """Windows of pictures and labels."""
        cut = Windows(self.crop, self.scales, VOID)
        return window_batches(
            self.train, cut, self.image_range, batch, seed, micro,
            lambda told: torch.from_numpy(told.astype(np.int64)),
        )  # fmt: skip

    def apart(self, told: Tensor, truth: Tensor) -> Tensor:
        """Cross entropy over the pixels that have a class."""
        counted = (truth != VOID).sum().clamp(min=1)  # a window may be all void
        loss = functional.cross_entropy(told, truth, ignore_index=VOID, reduction="sum")
        return loss / counted

    def unlike(self, told: Tensor, goal: Tensor) -> Tensor:
        """T^2 times the divergence of softened classes from the teacher's, a pixel."""
        apart = functional.kl_div(
            (told / self.temperature).log_softmax(1),
            (goal / self.temperature).log_softmax(1),
            reduction="none",
            log_target=True,
        )
        return apart.sum(1).mean() * self.temperature**2

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """miou and pix_acc in percent, over whole pictures."""
        confusion = Confusion.of(len(self.labels.names))
        for logits, labels in self.answers(model):
            confusion.add(logits.argmax(0), torch.from_numpy(labels.astype(np.int64)))
        return confusion.figures()

    def config(self) -> dict[str, Any]:
        """What a picture of the answer needs."""
        return {
            "classes": list(self.labels.names),
            "colours": [list(c) for c in self.labels.colours],
            "image_range": self.image_range,
        }

    def told(self, output: object, picture: Tensor) -> Tensor:
        """Logits (N, classes, H, W)."""
        logits = checked(output, picture, "logits").float()
        if logits.shape[1] != len(self.labels.names):
            raise ShapeError(
                f"the model tells {logits.shape[1]} classes apart, and the data has "
                f"{len(self.labels.names)} ({', '.join(self.labels.names[:4])}, ...): give a model "
                "of as many outputs"
            )
        return logits


def open_segment(request: Request) -> Segment:
    """The task of a folder of pictures and label pictures.

    Raises: DataError as `open_segments`, and without data.
    """
    if request.data is None:
        raise DataError("segmentation needs pictures and labels: give --data with a folder of both")
    options = dict(request.options)
    train, test, labels = open_segments(request.data, options.pop("labels", None))
    if request.held is not None:
        _, test, _ = open_segments(request.held, labels)
    if "crop" in options:
        options["crop"] = crop_of(options["crop"])
    return Segment(
        train,
        test,
        labels,
        image_range=request.image_range,
        fingerprint=fingerprint_of(train, test, also=repr(labels)),
        **options,
    )
