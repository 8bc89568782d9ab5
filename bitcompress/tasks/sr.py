"""The task of super-resolution: L1 to the photograph and to the teacher, Y-PSNR as papers do."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitcompress.data.augment import Pictures
from bitcompress.data.draws import Indices
from bitcompress.data.folders import PictureSet, open_pictures
from bitcompress.data.images import Picture
from bitcompress.data.pairs import PairPatches
from bitcompress.data.resize import imresize
from bitcompress.errors import DataError, ShapeError
from bitcompress.measure.quality import psnr_y
from bitcompress.tasks.apply import apply
from bitcompress.tasks.base import (
    SAMPLES,
    Batch,
    Pixels,
    Request,
    Task,
    device_of,
    evaluating,
    main_tensor,
    on_device,
    shared_out,
    taught,
)
from bitcompress.tiles import run_picture
from bitcompress.train import BatchSource

HELD_OUT = 10
"""Without pictures to measure on each tenth photograph is kept for that."""


@dataclass(frozen=True)
class SuperResolution(Task):
    """Pictures to ones `scale` times as large; low-resolution ones are made by MATLAB's bicubic.

    A model takes (N, 3, H, W) in 0..image_range and gives the enlarged picture in the same range.
    The loss is the mean absolute difference in units of [0, 1]: (1 - distill) of it to the
    photograph, distill to the teacher's picture.
    """

    name = "sr"
    metric = "psnr_y"
    higher_is_better = True

    photos: PictureSet
    held: PictureSet
    scale: int
    image_range: float = 1.0
    patch: int = 48
    distill: float = 0.5
    fingerprint: str = ""

    def example(self, model: nn.Module) -> tuple[Tensor]:
        """One low-resolution crop."""
        patches = PairPatches(self.photos, self.patch, self.scale, 0)
        return (self._tensor(patches.batch(0, 1, np.array([0]))[0]).to(device_of(model)),)

    def batches(self, batch: int, seed: int, micro: int | None = None) -> BatchSource:
        """Crops of both resolutions, turned and mirrored."""
        patches = PairPatches(self.photos, self.patch, self.scale, seed)

        def make(step: int, places: Indices) -> Batch:
            low, high = patches.batch(step, batch, places)
            return {"low": self._tensor(low), "high": self._tensor(high)}

        return shared_out(batch, micro, make)

    def loss(self, student: nn.Module, batch: Batch, teacher: nn.Module | None = None) -> Tensor:
        """Mean absolute difference to the photograph and to the teacher."""
        batch = on_device(student, batch)
        made = self._checked(student(batch["low"]), batch["low"]).float()
        loss = (made - batch["high"]).abs().mean()
        if teacher is not None and self.distill:
            goal = taught(teacher, batch["low"]).float()
            loss = (1 - self.distill) * loss + self.distill * (made - goal).abs().mean()
        return loss / self.image_range

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """psnr_y of the model and of bicubic, the mean over pictures in dB, border `scale`."""
        ours, plain = [], []
        with evaluating(model):
            for low, high, bicubic in self._truths:
                made = run_picture(
                    _There(model), low, scale=self.scale, image_range=self.image_range
                )
                border = self.scale if min(high.shape[:2]) > 2 * self.scale else 0
                ours.append(psnr_y(made, high, border))
                plain.append(psnr_y(bicubic, high, border))
        return {"psnr_y": float(np.mean(ours)), "bicubic_psnr_y": float(np.mean(plain))}

    def size(self) -> int:
        """Photographs."""
        return len(self.photos)

    def samples(self, model: nn.Module) -> list[tuple[str, Pixels]]:
        """The enlarged pictures."""
        config = self.config()
        pairs = zip(self.held.items[:SAMPLES], self._truths, strict=False)
        made = [(item.name, apply("sr", config, _There(model), low)) for item, (low, _, _) in pairs]
        return [(name, found.picture) for name, found in made if found.picture is not None]

    def config(self) -> dict[str, Any]:
        """Scale and range."""
        return {"scale": self.scale, "image_range": self.image_range}

    @cached_property
    def _truths(self) -> list[tuple[Picture, Picture, Picture]]:
        """Low, high and bicubic pictures of the held-out set, made once."""
        found = []
        for item in self.held:
            low, high = item.read()
            if high is None:
                raise DataError(f"{item.path} has no ground truth to measure on: give HR pictures")
            found.append((low, high, imresize(low, self.scale)))
        return found

    def _tensor(self, pictures: Pictures) -> Tensor:
        planes = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))
        return torch.from_numpy(planes).float().mul_(self.image_range / 255)

    def _checked(self, output: object, low: Tensor) -> Tensor:
        made = main_tensor(output)
        wanted = (*low.shape[:2], low.shape[2] * self.scale, low.shape[3] * self.scale)
        if tuple(made.shape) != wanted:
            raise ShapeError(
                f"the model made {tuple(made.shape)} of {tuple(low.shape)}, not {wanted}: is it a "
                f"model for x{self.scale}?"
            )
        return made


class _There(nn.Module):
    """The model with its input brought to its device, and its picture back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: as the model's."""
        return main_tensor(self.model(x.to(device_of(self.model)))).float().cpu()


def open_sr(request: Request) -> SuperResolution:
    """The task of a folder of HR photographs (or HR/LR pairs).

    Raises: DataError where there is no data, no scale, too few pictures to hold some out, or one
        too small for the crop.
    """
    if request.data is None or request.scale is None:
        what = "HR photos: give --data" if request.data is None else "a scale: give --scale"
        raise DataError(f"super-resolution needs {what}")
    photos = open_pictures(request.data, scale=request.scale)
    if request.held is not None:
        held = open_pictures(request.held, scale=request.scale)
        photos = photos.without(held)
    elif len(photos) < HELD_OUT:
        photos, held = photos.split(max(2, len(photos)))
    else:
        photos, held = photos.split(HELD_OUT)
    if not len(photos) or not len(held):
        raise DataError(
            f"{request.data} holds too few pictures to train on some and measure on others: give "
            "more, or others to measure on (--eval)"
        )
    digests = ",".join(item.fingerprint() for item in photos)
    task = SuperResolution(
        photos, held, request.scale, request.image_range,
        fingerprint=hashlib.sha256(f"{digests}|{request.scale}".encode()).hexdigest(),
        **request.options,
    )  # fmt: skip
    for index in range(len(photos)):  # a picture too small is named now, not at step 1000
        PairPatches(photos, task.patch, request.scale, 0)._pair(index)
    return task
