"""The task of super-resolution: aligned crops, the loss as written, PSNR beside bicubic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bitcompress.data.images import read_image, write_image
from bitcompress.data.resize import imresize
from bitcompress.errors import DataError, ShapeError, UsageError
from bitcompress.measure.quality import psnr_y
from bitcompress.tasks import Request, SuperResolution, task_of


@pytest.fixture
def task(photos: Path) -> SuperResolution:
    found = task_of(Request(data=photos, scale=2, options={"patch": 8}))
    assert isinstance(found, SuperResolution)
    return found


class Twice(nn.Module):
    """Each pixel four times."""

    scale = 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, scale_factor=2.0)


def test_crops_show_the_same_place(task: SuperResolution) -> None:
    source = task.batches(4, seed=1)
    for step in range(4):
        part = source(step, 0, 1)[0][1]
        assert part["low"].shape == (4, 3, 8, 8) and part["high"].shape == (4, 3, 16, 16)
        made = imresize(part["high"], 0.5)  # inside of the crop no border is seen
        assert torch.allclose(made[..., 2:-2, 2:-2], part["low"][..., 2:-2, 2:-2], atol=0.6 / 255)


def test_batches_are_a_pure_function_of_seed_and_step(task: SuperResolution) -> None:
    one = [task.batches(3, seed=1)(step, 0, 1)[0][1]["high"] for step in range(4)]
    source = task.batches(3, seed=1)
    two = [source(step, 0, 1)[0][1]["high"] for step in reversed(range(4))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    halves = [source(2, process, 2)[0][1]["high"] for process in range(2)]
    assert torch.equal(halves[0], one[2][0::2]) and torch.equal(halves[1], one[2][1::2])


def test_the_loss_is_the_written_formula(photos: Path) -> None:
    task = task_of(Request(data=photos, scale=2, image_range=255.0, options={"patch": 8}))
    student, teacher = Twice(), nn.Sequential(Twice(), nn.Conv2d(3, 3, 1))
    batch = task.batches(2, seed=0)(0, 0, 1)[0][1]
    out, goal = student(batch["low"]), teacher(batch["low"])
    plain = (out - batch["high"]).abs().mean() / 255
    assert torch.allclose(task.loss(student, batch), plain)
    mixed = 0.5 * plain + 0.5 * (out - goal).abs().mean() / 255
    assert torch.allclose(task.loss(student, batch, teacher), mixed)


def test_the_figures_are_those_of_quality(task: SuperResolution) -> None:
    found = task.evaluate(Twice())
    ours, plain = [], []
    for item in task.held:
        low, high = item.read()
        assert high is not None
        ours.append(psnr_y(low.repeat(2, 0).repeat(2, 1), high, 2))
        plain.append(psnr_y(imresize(low, 2), high, 2))
    assert found == {"psnr_y": np.mean(ours), "bicubic_psnr_y": np.mean(plain)}


def test_measured_pictures_are_not_trained_on(photos: Path, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.mkdir()
    write_image(held / "other.png", read_image(photos / "3.png"))
    task = task_of(Request(data=photos, held=held, scale=2, options={"patch": 8}))
    assert isinstance(task, SuperResolution)
    assert [i.name for i in task.photos] == ["0", "1", "2", "4"] and task.size() == 4
    assert [i.name for i in task.held] == ["other"]


def test_what_does_not_fit_is_refused(task: SuperResolution, photos: Path) -> None:
    with pytest.raises(ShapeError, match=r"is it a model for x2\?"):
        task.loss(nn.Identity(), task.batches(1, seed=0)(0, 0, 1)[0][1])
    with pytest.raises(DataError, match="smaller than a crop of 48: give larger"):
        task_of(Request(data=photos, scale=2, options={"patch": 24}))
    with pytest.raises(DataError, match="needs a scale"):
        task_of(Request(data=photos), "sr")
    with pytest.raises(DataError, match="needs HR photos"):
        task_of(Request(scale=2))
    with pytest.raises(UsageError, match="does not have all of the options colour"):
        task_of(Request(data=photos, scale=2, options={"colour": 1}))
    for number in range(1, 5):
        (photos / f"{number}.png").unlink()
    with pytest.raises(DataError, match="too few pictures"):
        task_of(Request(data=photos, scale=2))
