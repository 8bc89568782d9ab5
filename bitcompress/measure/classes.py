"""How good a classifier is: top-1, top-5, and by how many pictures a class was trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from bitcompress.errors import DataError, ShapeError

MANY, FEW = 100, 20
"""A class of more than 100 training pictures is one of many, of less than 20 one of few."""


def hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the class of each sample is among its k largest logits.

    A sample with a NaN among its logits is never right; of equal logits the lower class is first.
    Shapes: logits (N, C), labels (N,) int64. Returns: (N,) bool.
    Raises: ShapeError for another layout, DataError for a label outside of 0..C-1.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ShapeError(
            f"logits are (N, classes) and labels (N,), not {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
    check_labels(labels, logits.shape[1])
    mine = logits.gather(1, labels[:, None])
    places = torch.arange(logits.shape[1], device=logits.device)
    ahead = (logits > mine) | ((logits == mine) & (places < labels[:, None]))
    return (ahead.sum(1) < k) & ~logits.isnan().any(1)


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise DataError where a label is no class of the model."""
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise DataError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, but the model tells "
            f"{classes} classes apart: give data of its classes, or a model of as many outputs"
        )


def accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The share of samples that are right.

    Returns: top1 and top5 (where there are more than five classes), in percent.
    Raises: as `hits`; DataError without a sample.
    """
    if not labels.numel():
        raise DataError("there is no labelled sample to measure on: give a test part with some")
    found = {"top1": 100 * float(hits(logits, labels, 1).double().mean())}
    if logits.shape[1] > 5:
        found["top5"] = 100 * float(hits(logits, labels, 5).double().mean())
    return found


def by_group(logits: Tensor, labels: Tensor, trained_on: Tensor) -> dict[str, float]:
    """Top-1 of the classes with many, medium and few training pictures, and the mean over classes.

    Shapes: trained_on (C,), how many training pictures each class has.
    Returns: many, medium, few (those that have test samples) and classes, in percent; each is the
        mean over samples in the group, `classes` the mean over the classes that have samples.
    Source: Liu et al., Large-Scale Long-Tailed Recognition, 2019: more than 100, 20 to 100, less
        than 20.
    """
    right = hits(logits, labels, 1).double()
    per_sample = trained_on.to(labels.device)[labels]
    groups = {
        "many": per_sample > MANY,
        "medium": (per_sample >= FEW) & (per_sample <= MANY),
        "few": per_sample < FEW,
    }
    found = {n: 100 * float(right[chosen].mean()) for n, chosen in groups.items() if chosen.any()}
    seen = torch.bincount(labels, minlength=logits.shape[1])
    sums = torch.zeros(len(seen), dtype=torch.float64, device=right.device)
    sums.index_add_(0, labels, right)
    found["classes"] = 100 * float((sums[seen > 0] / seen[seen > 0]).mean())
    return found
