"""Losses on logits against the textbook formulas in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bitcompress.train.classes import IGNORED, decoupled, distributional, labelled, softened


def probabilities(logits: Tensor) -> list[list[float]]:
    rows = []
    for row in logits.tolist():
        e = [math.exp(v) for v in row]
        rows.append([v / sum(e) for v in e])
    return rows


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.fixture
def logits() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    out, teacher = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64).unbind(0)
    return out.requires_grad_(), teacher.requires_grad_(), torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distributional(logits: tuple[Tensor, Tensor, Tensor], temperature: float) -> None:
    out, teacher, _ = logits
    p, q = probabilities(teacher / temperature), probabilities(out / temperature)
    want = sum(map(kl, p, q)) / 6 * temperature**2
    assert distributional(out, teacher, temperature).item() == pytest.approx(want)
    assert distributional(teacher, teacher).item() == pytest.approx(0, abs=1e-12)


def test_places_are_samples(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    out, teacher, labels = logits
    maps = [t.T.reshape(1, 5, 2, 3) for t in (out, teacher)]
    assert torch.allclose(distributional(*maps), distributional(out, teacher))
    assert torch.allclose(softened(*maps), softened(out, teacher))
    both = labelled(maps[0], labels.view(1, 2, 3), maps[1])
    assert torch.allclose(both, labelled(out, labels, teacher))


def test_labels_and_teacher_are_mixed(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    out, teacher, labels = logits
    hard = -sum(math.log(p[t]) for p, t in zip(probabilities(out), labels, strict=True)) / 6
    assert labelled(out, labels).item() == pytest.approx(hard)
    soft = distributional(out, teacher).item()
    assert labelled(out, labels, teacher, 0.25).item() == pytest.approx(0.75 * hard + 0.25 * soft)
    some = labels.clone()
    some[3:] = IGNORED
    assert torch.allclose(labelled(out, some), labelled(out[:3], labels[:3]))
    assert labelled(out, torch.full_like(labels, IGNORED)).item() == 0


def test_decoupled(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    out, teacher, labels = logits
    want = 0.0
    for p, q, t in zip(probabilities(teacher), probabilities(out), labels.tolist(), strict=True):
        pair = kl([p[t], 1 - p[t]], [q[t], 1 - q[t]])
        rest = [[v / (1 - r[t]) for i, v in enumerate(r) if i != t] for r in (p, q)]
        want += (0.7 * pair + 1.5 * kl(rest[0], rest[1])) / 6
    assert decoupled(out, teacher, labels, 0.7, 1.5).item() == pytest.approx(want)


def test_decoupled_with_the_teachers_own_weights_is_the_whole_divergence() -> None:
    """DKD, equation 6: KL = KL of the pair + (1 - p of the label) KL of the rest."""
    out, teacher = torch.randn(2, 1, 7, dtype=torch.float64).unbind(0)
    p = float(torch.softmax(teacher, 1)[0, 3])
    got = decoupled(out, teacher, torch.tensor([3]), 1.0, 1 - p)
    assert torch.allclose(got, distributional(out, teacher))


def test_softened(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    out, teacher, _ = logits
    want = 0.0
    for p, q in zip(probabilities(teacher), probabilities(out), strict=True):
        want -= sum((0.9 * a + 0.1 / 5) * math.log(b) for a, b in zip(p, q, strict=True)) / 6
    assert softened(out, teacher).item() == pytest.approx(want)


def test_teachers_get_no_gradient(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    out, teacher, labels = logits
    total = (
        distributional(out, teacher) + labelled(out, labels, teacher)
        + decoupled(out, teacher, labels) + softened(out, teacher)
    )  # fmt: skip
    total.backward()
    assert teacher.grad is None and out.grad is not None
