"""Intersection over union against sets of pixels."""

from __future__ import annotations

import pytest
import torch

from bitcompress.errors import DataError, ShapeError, UsageError
from bitcompress.measure.segmentation import VOID, Confusion


def test_the_figures_are_those_of_sets() -> None:
    told, labels = torch.randint(0, 4, (2, 9, 11)), torch.randint(0, 4, (2, 9, 11))
    labels[0, :3] = VOID
    confusion = Confusion.of(6)  # two classes never occur
    for t, g in zip(told, labels, strict=True):
        confusion.add(t, g.to(torch.uint8))
    counted = [
        (i, int(t), int(g))
        for i, (t, g) in enumerate(zip(told.flatten(), labels.flatten(), strict=True))
        if g != VOID
    ]
    ious = []
    for c in range(4):
        mine, true = ({i for i, *tg in counted if tg[k] == c} for k in (0, 1))
        ious.append(len(mine & true) / len(mine | true))
    found = confusion.figures()
    assert found["miou"] == pytest.approx(100 * sum(ious) / 4)
    assert found["pix_acc"] == pytest.approx(
        100 * sum(t == g for _, t, g in counted) / len(counted)
    )
    assert confusion.ious().isnan().tolist() == [False] * 4 + [True] * 2


def test_a_class_told_where_there_is_none_counts() -> None:
    confusion = Confusion.of(3)
    confusion.add(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1]))
    assert confusion.figures() == {"miou": pytest.approx(100 * (1 + 0.5 + 0) / 3), "pix_acc": 75.0}


def test_what_cannot_be_counted() -> None:
    confusion = Confusion.of(3)
    with pytest.raises(DataError, match="no pixel has a label"):
        confusion.figures()
    with pytest.raises(DataError, match="the label 3 is none of the 3 classes"):
        confusion.add(torch.tensor([0]), torch.tensor([3]))
    with pytest.raises(DataError, match="the told class -1 is none"):
        confusion.add(torch.tensor([-1]), torch.tensor([0]))
    with pytest.raises(ShapeError, match="cannot be compared"):
        confusion.add(torch.zeros(2, 2), torch.zeros(2, 3))
    with pytest.raises(UsageError, match="0 classes"):
        Confusion.of(0)
    confusion.add(torch.tensor([5]), torch.tensor([VOID]))  # what is told of void does not matter
    assert not int(confusion.counts.sum())
