"""Tasks under the trainer: a resumed run ends where an unbroken one does, and learning shows."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from bitcompress.data.images import write_image
from bitcompress.models.convnext_uper import ConvNeXtUper
from bitcompress.models.edsr_direct import EDSRDirect
from bitcompress.models.resnet_cifar import ResNetCifar
from bitcompress.tasks import Request, Task, task_of
from bitcompress.train import FitConfig, LearnConfig, learn

pytest.importorskip("accelerate")


class Stopped(Exception):
    """What ends a run from outside."""


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Six noisy pictures; where green is high there is class 1."""
    root = tmp_path / "scenes"
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number in range(6):
        picture = np.random.default_rng(number).integers(0, 90, (40, 48, 3), dtype=np.uint8)
        picture[:, 12 + 4 * number :, 1] += 150
        write_image(root / "images" / f"{number}.png", picture)
        labels = (picture[..., 1] > 120).astype(np.uint8)
        PIL.Image.fromarray(labels).save(root / "labels" / f"{number}.png")
    return root


def pair(kind: str, classes_folder: Path, photos: Path, scenes: Path) -> tuple[Task, nn.Module]:
    torch.manual_seed(1)
    if kind == "classify":
        return task_of(Request(data=classes_folder)), ResNetCifar([1, 1], width=4, classes=3)
    if kind == "sr":
        request = Request(data=photos, scale=2, options={"patch": 8})
        return task_of(request), EDSRDirect(8, 1, 2)
    request = Request(data=scenes, options={"crop": 32, "scales": (0.8, 1.25)})
    return task_of(request), ConvNeXtUper(classes=2, depths=(1, 1), dims=(8, 16), width=8)


@pytest.mark.parametrize("kind", ["classify", "sr", "segment"])
def test_a_resumed_run_ends_where_an_unbroken_one_does(
    kind: str, classes_folder: Path, photos: Path, scenes: Path, tmp_path: Path
) -> None:
    task, student = pair(kind, classes_folder, photos, scenes)
    teacher = copy.deepcopy(student)
    config = LearnConfig(FitConfig(6, save_every=2, fingerprint=task.fingerprint), lr=3e-3)

    def run(model: nn.Module, stop: int | None = None, **how: object) -> None:
        def progress(what: str, done: int, of: int) -> None:
            if done == stop:
                raise Stopped

        fresh, _ = pair(kind, classes_folder, photos, scenes)  # nothing is carried in the task
        learn(
            model, lambda b: fresh.loss(model, b, teacher), fresh.batches(4, seed=2, micro=3),
            config, progress=progress, beside=[teacher], **how,  # type: ignore[arg-type]
        )  # fmt: skip

    whole, broken = copy.deepcopy(student), copy.deepcopy(student)
    run(whole)
    with pytest.raises(Stopped):
        run(broken, stop=5, folder=tmp_path / "run")
    run(broken, folder=tmp_path / "run", resume=True)
    assert any((a != b).any() for a, b in zip(whole.parameters(), student.parameters()))  # noqa: B905
    for name, value in whole.state_dict().items():
        assert torch.equal(value, broken.state_dict()[name]), name


def test_classes_are_learnt(classes_folder: Path) -> None:
    task = task_of(Request(data=classes_folder, options={"reach": 1}))
    model = ResNetCifar([1, 1], width=8, classes=3)
    learn(
        model, lambda b: task.loss(model, b), task.batches(10, seed=0),
        LearnConfig(FitConfig(25), lr=1e-2),
    )  # fmt: skip
    assert task.evaluate(model)["top1"] > 90


def test_scenes_are_learnt(scenes: Path) -> None:
    task = task_of(Request(data=scenes, options={"crop": 32, "scales": (1.0, 1.0)}))
    model = ConvNeXtUper(classes=2, depths=(1, 1), dims=(8, 16), width=8, dropout=0.0)
    learn(
        model, lambda b: task.loss(model, b), task.batches(5, seed=0),
        LearnConfig(FitConfig(30), lr=1e-2),
    )  # fmt: skip
    assert task.evaluate(model)["miou"] > 80
