"""The task of classifiers: its batches, its loss against the written-out formula, its figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitcompress.data.images import write_image
from bitcompress.errors import DataError, ShapeError
from bitcompress.models.resnet_cifar import ResNetCifar
from bitcompress.tasks import Classify, Request, task_of


@pytest.fixture
def task(classes_folder: Path) -> Classify:
    found = task_of(Request(data=classes_folder))
    assert isinstance(found, Classify)
    return found


class Means(nn.Module):
    """Tells classes by the mean of each colour."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_batches_are_a_pure_function_of_seed_and_step(task: Classify) -> None:
    one, two = task.batches(7, seed=3), task.batches(7, seed=3)
    forward = [one(step, 0, 1)[0][1] for step in range(6)]
    backward = [two(step, 0, 1)[0][1] for step in reversed(range(6))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert all(torch.equal(a[k], b[k]) for k in ("picture", "label"))
    assert not torch.equal(forward[0]["picture"], forward[1]["picture"])
    assert not torch.equal(task.batches(7, seed=4)(0, 0, 1)[0][1]["label"], forward[0]["label"])


def test_processes_and_parts_share_a_batch(task: Classify) -> None:
    whole = task.batches(7, seed=0)(5, 0, 1)[0][1]
    sources = [task.batches(7, seed=0, micro=2)(5, process, 2) for process in range(2)]
    weights = [weight for source in sources for weight, _ in source]
    assert sum(weights) == pytest.approx(2)
    for process, source in enumerate(sources):
        got = torch.cat([part["picture"] for _, part in source])
        assert torch.equal(got, whole["picture"][process::2])
        assert all(w == pytest.approx(len(p["label"]) * 2 / 7) for w, p in source)
    with pytest.raises(DataError, match="at least one sample a process"):
        task.batches(1, seed=0)(0, 1, 2)


def test_an_epoch_has_each_picture_once(task: Classify) -> None:
    plain = dataclasses.replace(task, reach=0, mirror=False)
    source = plain.batches(10, seed=2)
    pictures = torch.cat([source(step, 0, 1)[0][1]["picture"] for step in range(3)])
    seen = sorted((pictures * 255).round().byte().flatten(1).tolist())
    assert seen == sorted(
        torch.from_numpy(np.array(task.train.pictures)).permute(0, 3, 1, 2).flatten(1).tolist()
    )
    assert plain.size() == 30


def test_the_loss_is_the_written_formula(task: Classify) -> None:
    student, teacher = (ResNetCifar([1], width=4, classes=3).eval() for _ in range(2))
    batch = task.batches(5, seed=0)(0, 0, 1)[0][1]
    s, t = student(batch["picture"]), teacher(batch["picture"])
    cross = torch.stack([-s[i].log_softmax(0)[y] for i, y in enumerate(batch["label"])]).mean()
    assert torch.allclose(task.loss(student, batch), cross)
    ps, pt = (s / 4).softmax(1), (t / 4).softmax(1)
    apart = (pt * (pt / ps).log()).sum(1).mean()
    assert torch.allclose(task.loss(student, batch, teacher), 0.1 * cross + 0.9 * 16 * apart)


def test_the_teacher_is_left_as_it_was(task: Classify) -> None:
    teacher = ResNetCifar([1], width=4, classes=3).train()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    batch = task.batches(5, seed=0)(0, 0, 1)[0][1]
    task.loss(ResNetCifar([1], width=4, classes=3), batch, teacher).backward()
    assert teacher.training and all(
        torch.equal(before[k], v) for k, v in teacher.state_dict().items()
    )
    assert all(p.grad is None for p in teacher.parameters())


def test_a_perfect_and_a_wrong_model(task: Classify) -> None:
    assert task.evaluate(Means())["top1"] == 100.0
    assert (
        task.evaluate(nn.Sequential(Means(), nn.Linear(3, 3).requires_grad_(False)))["top1"] <= 100
    )
    broken = nn.Sequential(Means(), nn.Flatten())
    broken.register_forward_hook(lambda m, i, o: o * float("nan"))
    assert task.evaluate(broken)["top1"] == 0.0


def test_example_and_range(classes_folder: Path) -> None:
    task = task_of(Request(data=classes_folder, image_range=255.0))
    (picture,) = task.example(Means())
    assert picture.shape == (2, 3, 8, 8) and float(picture.max()) > 100
    assert torch.equal(picture, picture.round())


def test_what_does_not_fit_is_refused(task: Classify, classes_folder: Path) -> None:
    with pytest.raises(DataError, match="labels go from 0 to 2, but the model tells 2 classes"):
        task.evaluate(ResNetCifar([1], width=4, classes=2))
    with pytest.raises(ShapeError, match="no logits"):
        task.evaluate(nn.Identity())
    with pytest.raises(DataError, match="needs labelled pictures"):
        task_of(Request(), "classify")
    other = classes_folder.parent / "held"
    (other / "dog").mkdir(parents=True)
    write_image(other / "dog" / "0.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="'dog', which is not trained"):
        task_of(Request(data=classes_folder, held=other))


def test_another_folder_to_measure_on(classes_folder: Path) -> None:
    held = task_of(Request(data=classes_folder, held=classes_folder / "train"))
    assert isinstance(held, Classify) and len(held.test) == 30 and len(held.train) == 30


def test_uneven_classes_have_groups(classes_folder: Path) -> None:
    for i in range(8):
        (classes_folder / "train" / "ant" / f"{i}.png").unlink()
    found = task_of(Request(data=classes_folder)).evaluate(Means())
    assert found == {"top1": 100.0, "few": 100.0, "classes": 100.0}
