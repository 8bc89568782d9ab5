"""Depth figures by hand and against plain loops; the loss and its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from bitcompress.errors import DataError, ShapeError
from bitcompress.measure.depth import depth_figures, silog_loss


def test_the_figures_of_a_loop() -> None:
    told, truth = torch.rand(5, 7) * 4 + 0.1, torch.rand(5, 7) * 4 + 0.1
    truth[2] = 0
    pairs = [(float(t), float(g)) for t, g in zip(told.flatten(), truth.flatten()) if g > 0]  # noqa: B905
    n = len(pairs)
    logs = [math.log(t / g) for t, g in pairs]
    mean = sum(logs) / n
    wanted = {
        "abs_rel": sum(abs(t - g) / g for t, g in pairs) / n,
        "rmse": math.sqrt(sum((t - g) ** 2 for t, g in pairs) / n),
        "log10": sum(abs(math.log10(t / g)) for t, g in pairs) / n,
        "silog": 100 * math.sqrt(sum((d - mean) ** 2 for d in logs) / n),
    }
    for i in (1, 2, 3):
        wanted[f"delta{i}"] = sum(max(t / g, g / t) < 1.25**i for t, g in pairs) / n
    assert depth_figures(told, truth) == pytest.approx(wanted)


def test_a_perfect_and_a_scaled_map() -> None:
    truth = torch.rand(4, 4) + 1
    assert depth_figures(truth, truth)["delta1"] == 1 and depth_figures(truth, truth)["rmse"] == 0
    scaled = depth_figures(truth * 2, truth)
    assert scaled["silog"] < 1e-4 and scaled["abs_rel"] == pytest.approx(1)
    assert depth_figures(torch.zeros(4, 4), truth)["delta3"] == 0  # finite, whatever is told


def test_the_loss_is_the_written_formula() -> None:
    told = (torch.rand(3, 4) + 0.5).requires_grad_()
    truth = torch.rand(3, 4) + 0.5
    truth[0] = 0
    d = (told[1:] + 1e-7).log() - (truth[1:] + 1e-7).log()
    wanted = 10 * (d.square().mean() - 0.85 * d.mean() ** 2).sqrt()
    loss = silog_loss(told, truth)
    assert torch.allclose(loss, wanted)
    loss.backward()
    assert told.grad is not None and bool(told.grad[1:].any()) and not bool(told.grad[0].any())


def test_gradients_stay_numbers() -> None:
    told = torch.ones(2, 2, requires_grad=True)
    silog_loss(told, torch.ones(2, 2)).backward()
    assert told.grad is not None and bool(told.grad.isfinite().all())
    told.grad = None
    loss = silog_loss(told, torch.zeros(2, 2))
    loss.backward()
    assert loss.item() == 0 and torch.equal(told.grad, torch.zeros(2, 2))


def test_what_cannot_be_measured() -> None:
    with pytest.raises(DataError, match="no depth is known"):
        depth_figures(torch.ones(2), torch.zeros(2))
    with pytest.raises(ShapeError, match="cannot be compared"):
        depth_figures(torch.ones(2), torch.ones(3))
