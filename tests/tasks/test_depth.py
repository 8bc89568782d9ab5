"""The task of depth: its loss, its figures, and the stereo pair from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitcompress.data.images import write_image
from bitcompress.errors import DataError, ShapeError
from bitcompress.measure.depth import silog_loss
from bitcompress.models.convnext_uper import ConvNeXtUper
from bitcompress.tasks import Depth, Request, task_of


class Reads(nn.Module):
    """The depth that red tells."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1] * 2.55 * self.factor + 1e-3


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    root = tmp_path / "rooms"
    for part in ("images", "depth"):
        (root / part).mkdir(parents=True)
    for number in range(6):
        random = np.random.default_rng(number)
        picture = random.integers(20, 256, (11, 14, 3), dtype=np.uint8)
        depth = picture[..., 0] / 100
        depth[0] = np.nan
        write_image(root / "images" / f"{number}.png", picture)
        np.save(root / "depth" / f"{number}.npy", depth)
    return root


@pytest.fixture
def task(rooms: Path) -> Depth:
    found = task_of(Request(data=rooms, options={"crop": 8}))
    assert isinstance(found, Depth)
    return found


def test_the_loss_is_that_of_measure(task: Depth) -> None:
    batch = task.batches(3, seed=0)(0, 0, 1)[0][1]
    assert batch["picture"].shape == (3, 3, 8, 8) and batch["map"].dtype == torch.float32
    student, teacher = Reads(1.5), Reads(3.0)
    told, goal = (m(batch["picture"])[:, 0] for m in (student, teacher))
    plain = silog_loss(told, batch["map"])
    assert torch.allclose(task.loss(student, batch), plain)
    mixed = 0.5 * plain + 0.5 * silog_loss(told, goal)
    assert torch.allclose(task.loss(student, batch, teacher), mixed)


def test_figures(task: Depth) -> None:
    good = task.evaluate(Reads())
    assert good["delta1"] == 1 and good["abs_rel"] < 0.01
    double = task.evaluate(Reads(2.0))
    assert double["delta3"] == 0 and double["abs_rel"] == pytest.approx(1, abs=0.01)
    assert double["silog"] < 1
    ((_, shown),) = task.samples(Reads())
    assert shown.shape == (11, 14, 3) and shown.max() == 255


def test_the_stereo_pair_from_end_to_end() -> None:
    pytest.importorskip("skimage")
    task = task_of(Request(data=Path("stereo"), options={"crop": [64, 96]}))
    assert isinstance(task, Depth) and task.size() == 1
    model = ConvNeXtUper(max_depth=8.0, depths=(1, 1), dims=(8, 16), width=8)
    batch = task.batches(2, seed=0)(0, 0, 1)[0][1]
    assert bool((batch["map"] > 0).any())
    task.loss(model, batch).backward()
    found = task.evaluate(model)
    assert set(found) == {"delta1", "delta2", "delta3", "abs_rel", "rmse", "log10", "silog"}


def test_what_does_not_fit_is_refused(task: Depth) -> None:
    with pytest.raises(ShapeError, match="gives 3 numbers a pixel, where depth is one"):
        task.evaluate(nn.Identity())
    with pytest.raises(DataError, match="needs pictures and depths"):
        task_of(Request(), "depth")
