"""Accuracy against sorting, and the groups of long tails by hand."""

from __future__ import annotations

import pytest
import torch

from bitcompress.errors import DataError, ShapeError
from bitcompress.measure.classes import accuracy, by_group, hits


@pytest.mark.parametrize("k", [1, 2, 5])
def test_hits_are_those_of_a_sort(k: int) -> None:
    logits = torch.randn(200, 7).round(decimals=1)  # with ties
    labels = torch.randint(0, 7, (200,))
    for row, label, hit in zip(logits, labels, hits(logits, labels, k), strict=True):
        order = sorted(range(7), key=lambda c, row=row: (-float(row[c]), c))
        assert bool(hit) == (int(label) in order[:k])


def test_accuracy_in_percent() -> None:
    logits = torch.eye(8)[torch.tensor([0, 1, 2, 3])]
    assert accuracy(logits, torch.tensor([0, 1, 3, 7])) == {"top1": 50.0, "top5": 75.0}
    assert "top5" not in accuracy(logits[:, :5], torch.tensor([0, 1, 2, 3]))


def test_no_number_is_never_right() -> None:
    logits = torch.tensor([[float("nan"), 0.0], [1.0, float("nan")], [1.0, 0.0]])
    assert hits(logits, torch.tensor([0, 0, 0]), 2).tolist() == [False, False, True]


def test_groups_of_a_long_tail() -> None:
    trained_on = torch.tensor([500, 101, 100, 20, 19])
    labels = torch.tensor([0, 0, 1, 2, 3, 3, 4])
    told = torch.tensor([0, 1, 1, 2, 0, 3, 0])
    found = by_group(torch.eye(5)[told], labels, trained_on)
    assert found == pytest.approx(
        {"many": 200 / 3, "medium": 200 / 3, "few": 0.0, "classes": 100 * (0.5 + 1 + 1 + 0.5) / 5}
    )
    assert "few" not in by_group(torch.eye(5)[told[:2]], labels[:2], trained_on)


def test_what_cannot_be_measured() -> None:
    logits = torch.zeros(2, 3)
    for wrong in ([0, 3], [-1, 0]):
        with pytest.raises(DataError, match="but the model tells 3 classes"):
            accuracy(logits, torch.tensor(wrong))
    with pytest.raises(ShapeError, match="logits are"):
        hits(logits, torch.zeros(3, dtype=torch.int64), 1)
    with pytest.raises(DataError, match="no labelled sample"):
        accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
