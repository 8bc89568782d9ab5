"""The task of segmentation on street scenes of two colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from bitcompress.data.images import write_image
from bitcompress.data.labels import VOID
from bitcompress.errors import DataError, ShapeError, UsageError
from bitcompress.tasks import Request, Segment, task_of


class Bright(nn.Module):
    """Class 1 where green is high, class 0 elsewhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([0.5 - x[:, 1], x[:, 1] - 0.5], 1) * 9


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Left half dark, right half green, and a void corner; odd sizes."""
    root = tmp_path / "scenes"
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number in range(6):
        picture = np.zeros((13, 18 + number, 3), np.uint8)
        picture[:, 9:, 1] = 255
        labels = (picture[..., 1] > 0).astype(np.uint8)
        labels[:2, :2] = VOID
        write_image(root / "images" / f"{number}.png", picture)
        PIL.Image.fromarray(labels).save(root / "labels" / f"{number}.png")
    return root


@pytest.fixture
def task(scenes: Path) -> Segment:
    found = task_of(Request(data=scenes, options={"crop": [8, 12]}))
    assert isinstance(found, Segment)
    return found


def test_batches(task: Segment) -> None:
    source = task.batches(4, seed=1, micro=3)
    parts = source(2, 0, 1)
    assert [len(p["map"]) for _, p in parts] == [2, 2]
    assert [w for w, _ in parts] == [0.5, 0.5]
    whole = task.batches(4, seed=1)(2, 0, 1)[0][1]
    assert whole["picture"].shape == (4, 3, 8, 12) and whole["map"].shape == (4, 8, 12)
    assert torch.equal(whole["picture"], torch.cat([p["picture"] for _, p in parts]))
    assert set(whole["map"].unique().tolist()) <= {0, 1, VOID}
    assert task.example(Bright())[0].shape == (2, 3, 8, 12) and task.size() == 5


def test_the_loss_is_the_written_formula(task: Segment) -> None:
    batch = task.batches(3, seed=0)(0, 0, 1)[0][1]
    teacher = nn.Sequential(nn.Conv2d(3, 2, 1))
    s, t = (m(batch["picture"]).log_softmax(1) for m in (Bright(), teacher))
    picked = [
        -s[n, batch["map"][n, y, x], y, x] for n, y, x in (batch["map"] != VOID).nonzero().tolist()
    ]
    cross = torch.stack(picked).mean()
    assert torch.allclose(task.loss(Bright(), batch), cross)
    apart = (t.exp() * (t - s)).sum(1).mean()
    assert torch.allclose(task.loss(Bright(), batch, teacher), 0.5 * cross + 0.5 * apart)


def test_a_window_of_void_has_no_loss(task: Segment) -> None:
    batch = task.batches(2, seed=0)(0, 0, 1)[0][1]
    batch = {**batch, "map": torch.full_like(batch["map"], VOID)}
    model = nn.Conv2d(3, 2, 1)
    loss = task.loss(model, batch)
    loss.backward()
    assert loss.item() == 0 and model.weight.grad is not None and not bool(model.weight.grad.any())


def test_figures_and_pictures(task: Segment) -> None:
    assert task.evaluate(Bright()) == {"miou": 100.0, "pix_acc": 100.0}
    wrong = nn.Sequential(Bright())
    wrong.register_forward_hook(lambda m, i, o: -o)
    assert task.evaluate(wrong) == {"miou": 0.0, "pix_acc": 0.0}
    ((name, shown),) = task.samples(Bright())
    assert name == "4" and shown.shape == (13, 22, 3)
    assert {tuple(p) for p in shown.reshape(-1, 3).tolist()} == set(task.labels.colours)


def test_the_models_of_the_house_take_it(task: Segment) -> None:
    from bitcompress.models.convnext_uper import ConvNeXtUper

    wide = {**task.__dict__, "crop": (32, 48)}
    wide.pop("_truths", None)
    model = ConvNeXtUper(classes=2, depths=(1, 1), dims=(8, 16), width=8)
    larger = Segment(**wide)
    larger.loss(model, larger.batches(2, 0)(0, 0, 1)[0][1]).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_what_does_not_fit_is_refused(task: Segment, scenes: Path) -> None:
    with pytest.raises(ShapeError, match="tells 3 classes apart, and the data has 2"):
        task.evaluate(nn.Identity())
    with pytest.raises(ShapeError, match="logits of the picture's size"):
        task.evaluate(nn.Sequential(Bright(), nn.AvgPool2d(2)))
    with pytest.raises(DataError, match="needs pictures and labels"):
        task_of(Request(), "segment")
    with pytest.raises(UsageError, match="is no height and width"):
        task_of(Request(data=scenes, options={"crop": [8, 0]}))
