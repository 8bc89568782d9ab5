"""The task of classifiers: cross entropy, and how far the student's probabilities are off."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bitcompress.data.augment import flipped, shifted
from bitcompress.data.draws import Indices, drawn, random_of
from bitcompress.data.labelled import Labelled, open_held, open_labelled
from bitcompress.errors import DataError, ShapeError
from bitcompress.measure.classes import accuracy, by_group, check_labels
from bitcompress.tasks.base import (
    Batch,
    Request,
    Task,
    device_of,
    evaluating,
    main_tensor,
    on_device,
    shared_out,
    taught,
)
from bitcompress.train import BatchSource

BATCH = 250
"""Pictures that are measured at once."""


@dataclass(frozen=True)
class Classify(Task):
    """Pictures of one size into classes.

    A model takes (N, 3, H, W) in 0..image_range and gives logits (N, classes). Training pictures
    are moved by up to `reach` pixels and mirrored. With a teacher the loss is
    (1 - distill) * cross entropy + distill * T^2 * KL(teacher || student), both softened by T.
    """

    name = "classify"
    metric = "top1"
    higher_is_better = True

    train: Labelled
    test: Labelled
    image_range: float = 1.0
    reach: int = 4
    mirror: bool = True
    distill: float = 0.9
    temperature: float = 4.0
    smoothing: float = 0.0
    fingerprint: str = ""

    def example(self, model: nn.Module) -> tuple[Tensor]:
        """Two training pictures."""
        return (self._tensor(self.train.pictures[:2]).to(device_of(model)),)

    def batches(self, batch: int, seed: int, micro: int | None = None) -> BatchSource:
        """Pictures and labels, augmented."""

        def make(step: int, places: Indices) -> Batch:
            chosen = drawn(seed, step, batch, len(self.train))
            whole = self.train.pictures[chosen]
            random = random_of(seed, step)
            if self.reach:
                whole = shifted(whole, random, self.reach)
            if self.mirror:
                whole = flipped(whole, random)
            labels = torch.from_numpy(self.train.labels[chosen[places]])
            return {"picture": self._tensor(whole[places]), "label": labels}

        return shared_out(batch, micro, make)

    def loss(self, student: nn.Module, batch: Batch, teacher: nn.Module | None = None) -> Tensor:
        """Cross entropy, with a teacher mostly the divergence from it."""
        batch = on_device(student, batch)
        logits = self._logits(student(batch["picture"]))
        loss = functional.cross_entropy(logits, batch["label"], label_smoothing=self.smoothing)
        if teacher is None or not self.distill:
            return loss
        goal = taught(teacher, batch["picture"]).float() / self.temperature
        apart = functional.kl_div(
            (logits / self.temperature).log_softmax(1),
            goal.log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.distill) * loss + self.distill * self.temperature**2 * apart

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """top1 and top5 in percent; of unevenly trained classes also many, medium, few, classes."""
        logits = []
        with evaluating(model):
            for start in range(0, len(self.test), BATCH):
                part = self._tensor(self.test.pictures[start : start + BATCH])
                logits.append(self._logits(model(part.to(device_of(model)))).cpu())
        whole, labels = torch.cat(logits), torch.from_numpy(self.test.labels)
        found = accuracy(whole, labels)
        counts = self.train.counts()
        if counts.max() >= 2 * max(1, counts.min()):
            found |= by_group(whole, labels, torch.from_numpy(counts))
        return found

    def size(self) -> int:
        """Training pictures."""
        return len(self.train)

    def config(self) -> dict[str, Any]:
        """The names of the classes and what pictures are brought to."""
        size = list(self.train.pictures.shape[1:3])
        return {
            "classes": list(self.train.classes), "size": size, "image_range": self.image_range,
        }  # fmt: skip

    def _tensor(self, pictures: NDArray[np.uint8]) -> Tensor:
        planes = np.ascontiguousarray(np.asarray(pictures).transpose(0, 3, 1, 2))
        return torch.from_numpy(planes).float().mul_(self.image_range / 255)

    def _logits(self, output: object) -> Tensor:
        logits = main_tensor(output).float()
        if logits.dim() != 2:
            raise ShapeError(
                f"the model gave {tuple(logits.shape)}, which are no logits (N, classes): give a "
                "classifier, or data of another task"
            )
        check_labels(torch.tensor([0, len(self.train.classes) - 1]), logits.shape[1])
        return logits


def open_classify(request: Request) -> Classify:
    """The task of a labelled folder or zip; the test part may be a folder of its own.

    Raises: DataError as `open_labelled`, without data, and for a test part of other classes.
    """
    if request.data is None:
        raise DataError("a classifier needs labelled pictures: give --data with a folder or zip")
    options = dict(request.options)
    size = options.pop("size", None)
    train, test = open_labelled(request.data, size=size, cache=request.cache)
    if request.held is not None:
        test = open_held(request.held, train, cache=request.cache)
    seen = hashlib.sha256(repr(train.classes).encode())
    for part in (train, test):
        seen.update(part.labels.tobytes())
        seen.update(np.ascontiguousarray(part.pictures[:: max(1, len(part) // 500)]).tobytes())
    return Classify(
        train, test, image_range=request.image_range, fingerprint=seen.hexdigest(), **options
    )
