"""How good a segmentation is: pixel accuracy and mean intersection over union, without void."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitcompress.errors import DataError, ShapeError, UsageError

VOID = 255
"""The label of pixels that count nowhere."""


@dataclass(frozen=True)
class Confusion:
    """How many pixels of each class were told to be of each class, over any number of pictures."""

    counts: Tensor
    """Shapes: (classes, classes) int64; row: true class, column: told class."""

    @staticmethod
    def of(classes: int) -> Confusion:
        """An empty one. Raises: UsageError without a class."""
        if classes < 1:
            raise UsageError(f"{classes} classes cannot be told apart: give 1 or more")
        return Confusion(torch.zeros(classes, classes, dtype=torch.int64))

    def add(self, told: Tensor, labels: Tensor) -> None:
        """Count the pixels of a picture or batch.

        Shapes: told and labels alike, of any integer dtype; labels are classes or VOID.
        Raises: ShapeError where they differ in size, DataError for a number that is no class.
        """
        if told.shape != labels.shape:
            raise ShapeError(
                f"classes of {tuple(told.shape)} and labels of {tuple(labels.shape)} cannot be "
                "compared: bring both to the picture's size"
            )
        classes = len(self.counts)
        labels, told = labels.cpu().long().flatten(), told.cpu().long().flatten()
        told, labels = told[labels != VOID], labels[labels != VOID]
        for what, found in (("label", labels), ("told class", told)):
            if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < classes:
                wrong = int(found.max()) if int(found.max()) >= classes else int(found.min())
                raise DataError(
                    f"the {what} {wrong} is none of the {classes} classes (0 to {classes - 1}, "
                    f"{VOID} for void): give labels of the model's classes"
                )
        flat = torch.bincount(labels * classes + told, minlength=classes * classes)
        self.counts.add_(flat.view(classes, classes))

    def figures(self) -> dict[str, float]:
        """miou and pix_acc in percent.

        The mean is over the classes that occur, in labels or in what was told.
        Raises: DataError where no pixel was counted.
        """
        ious = self.ious()
        if not int(self.counts.sum()):
            raise DataError("no pixel has a label: all are void; give labelled pictures")
        right = self.counts.diagonal().sum().double()
        return {
            "miou": 100 * float(ious[~ious.isnan()].mean()),
            "pix_acc": 100 * float(right / self.counts.sum()),
        }

    def ious(self) -> Tensor:
        """Intersection over union of each class; NaN for one that does not occur.

        Shapes: (classes,) float64.
        """
        right = self.counts.diagonal().double()
        return right / (self.counts.sum(0) + self.counts.sum(1) - right)
