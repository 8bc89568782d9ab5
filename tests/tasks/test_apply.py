"""One picture through a model, with nothing but the config of its task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitcompress.data.images import read_image
from bitcompress.errors import DataError, UsageError
from bitcompress.tasks import Request, task_of
from bitcompress.tasks.apply import apply, painted, shaded


class Means(nn.Module):
    """Tells classes by the mean of each colour."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 9 * x.mean((2, 3))


def test_classes_by_name(classes_folder: Path) -> None:
    config = json.loads(json.dumps(task_of(Request(data=classes_folder)).config()))
    picture = read_image(classes_folder / "test" / "bee" / "0.png").repeat(3, 0).repeat(2, 1)
    found = apply("classify", config, Means(), picture).classes
    assert [name for name, _ in found][0] == "bee" and len(found) == 3
    assert sum(p for _, p in found) == pytest.approx(1)
    with pytest.raises(DataError, match="names 3 classes: they do not belong together"):
        apply("classify", config, nn.Sequential(Means(), nn.Linear(3, 2)), picture)


def test_pictures_of_the_others() -> None:
    pixels = np.zeros((5, 6, 3), np.uint8)
    pixels[:, 3:] = 200
    twice = nn.Upsample(scale_factor=2)
    made = apply("sr", {"scale": 2, "image_range": 1.0}, twice, pixels).picture
    assert made is not None and (made == pixels.repeat(2, 0).repeat(2, 1)).all()
    config = {"colours": [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "image_range": 1.0}
    told = apply("segment", config, nn.Identity(), pixels).picture
    assert told is not None and told[0, 0].tolist() == [1, 2, 3]
    grey = apply("depth", {"image_range": 1.0}, nn.Conv2d(3, 1, 1), pixels).picture
    assert grey is not None and grey.shape == pixels.shape


def test_colours_and_greys() -> None:
    classes = torch.tensor([[0, 1], [1, 0]])
    assert painted(classes, [[9, 9, 9], [1, 2, 3]])[0].tolist() == [[9, 9, 9], [1, 2, 3]]
    assert shaded(torch.tensor([[1.0, 2.0, 4.0]]))[0, :, 0].tolist() == [255, 128, 64]


def test_samples_of_super_resolution(photos: Path) -> None:
    task = task_of(Request(data=photos, scale=2, options={"patch": 8}))
    model = nn.Upsample(scale_factor=2)
    (name, shown), *_ = task.samples(model)
    assert name == "4" and shown.shape == (36, 40, 3)
    assert task.description == "sr, 4 training samples"


def test_what_does_not_fit_is_refused() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(UsageError, match="task 'sing' does not take a picture"):
        apply("sing", {}, nn.Identity(), pixels)
    with pytest.raises(DataError, match="the report lacks 'image_range', which depth needs"):
        apply("depth", {}, nn.Identity(), pixels)
    config = {"colours": [[0, 0, 0]], "image_range": 1.0}
    with pytest.raises(DataError, match="has 1 colours"):
        apply("segment", config, nn.Identity(), pixels)
