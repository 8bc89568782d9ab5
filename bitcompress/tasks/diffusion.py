"""The task of a diffusion model for super-resolution: noise L1, and pictures drawn with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitcompress.data.augment import Pictures
from bitcompress.data.draws import Indices, random_of
from bitcompress.data.folders import PictureSet
from bitcompress.data.images import Picture
from bitcompress.data.pairs import PairPatches
from bitcompress.errors import DataError, ShapeError, UsageError
from bitcompress.models.diffusion import Schedule, enlarge, linear_schedule, q_sample
from bitcompress.tasks.base import (
    Batch,
    Request,
    Task,
    device_of,
    evaluating,
    main_tensor,
    on_device,
    shared_out,
    taught,
)
from bitcompress.tasks.sample import Sampler, enlarged, make_stepper
from bitcompress.tasks.sr import SuperResolution, open_sr
from bitcompress.train import BatchSource

MARGIN = 2
"""Low-resolution pixels around a crop that the bicubic of its inside looks at."""
SHOWN = 3
"""Pictures of `samples`."""
TIMES = 1 << 33
"""Steps are drawn from a stream of their own, beside those of crops."""


@dataclass(frozen=True)
class Diffusion(Task):
    """Predicting the noise in a noisy photograph, given its low-resolution picture enlarged.

    A model takes (noisy, condition, t) and gives the noise. The condition is the bicubic of the
    whole low-resolution picture, cut afterwards. Of the held-out photographs one fixed set of
    (photograph, timestep, noise) gives `noise_l1`; `pictures` of them are sampled for `psnr_y`.

    Source: BI-DiffSR (NeurIPS 2024).
    Deviation: each sample of a batch has its own timestep, drawn so that a batch covers all of them
    evenly; `one_time` draws one for all, as the paper's code does (it reads the group of sample 0).
    `distill` weighs how far the noise is from a teacher's; 0 in the paper.
    """

    name = "diffusion"
    metric = "noise_l1"
    higher_is_better = False

    photos: PictureSet
    held: PictureSet
    scale: int
    patch: int = 64
    """Low-resolution pixels of a crop; the paper's."""
    one_time: bool = False
    distill: float = 0.0
    probes: int = 64
    """Crops of the fixed held-out set."""
    pictures: int | None = None
    """How many held-out pictures are sampled; None samples all, 0 none."""
    steps: int = 50
    sampler: str = "ddim"
    sampler_settings: dict[str, Any] = field(default_factory=dict)
    start: int | None = None
    reach: float | None = None
    """Options of `Sampler`."""
    schedule: Schedule = field(default_factory=linear_schedule)
    fingerprint: str = ""

    def example(self, model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """A noisy crop, its condition and its timestep."""
        noisy, condition, t, _ = self._noisy(self._crops(0).draw(0, 1, np.array([0])))
        device = device_of(model)
        return noisy.to(device), condition.to(device), t.to(device)

    def batches(self, batch: int, seed: int, micro: int | None = None) -> BatchSource:
        """Crops with a timestep and noise for each."""
        crops = self._crops(seed)
        return shared_out(batch, micro, lambda step, places: crops.draw(step, batch, places))

    def loss(self, student: nn.Module, batch: Batch, teacher: nn.Module | None = None) -> Tensor:
        """Mean absolute difference to the noise, and to a teacher's where `distill` is above 0."""
        noisy, condition, t, noise = self._noisy(on_device(student, batch))
        said = self._checked(student(noisy, condition, t), noise)
        loss = (said - noise).abs().mean()
        if teacher is not None and self.distill:
            goal = taught(teacher, noisy, condition, t).float()
            loss = (1 - self.distill) * loss + self.distill * (said - goal).abs().mean()
        return loss

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """noise_l1 on the fixed set; psnr_y sampled and of bicubic, if pictures are sampled."""
        figures = {"noise_l1": self.noise_error(model)}
        if self.pictures != 0:
            figures |= self.sampled(model)
        return figures

    def noise_error(self, model: nn.Module) -> float:
        """The mean absolute error of the noise over the fixed held-out set."""
        total = 0.0
        with evaluating(model):
            for part in self._fixed:
                noisy, condition, t, noise = self._noisy(on_device(model, part))
                total += float((main_tensor(model(noisy, condition, t)) - noise).abs().mean())
        return total / len(self._fixed)

    def sampled(self, model: nn.Module) -> dict[str, float]:
        """Y-PSNR of sampled pictures and of bicubic ones, in dB, the mean over pictures."""
        held = self.held
        if self.pictures is not None:
            held = PictureSet(held.name, held.items[: self.pictures], held.kind)
        with evaluating(model):
            return SuperResolution(self.photos, held, self.scale).evaluate(self.sampler_of(model))

    def sampler_of(self, model: nn.Module) -> Sampler:
        """The model as one that enlarges pictures, with this task's settings."""
        stepper = make_stepper(self.sampler, self.schedule, **self.sampler_settings)
        return Sampler(
            model, self.scale, steps=self.steps, stepper=stepper, schedule=self.schedule,
            start=self.start, reach=self.reach,
        )  # fmt: skip

    def size(self) -> int:
        """Photographs."""
        return len(self.photos)

    def samples(self, model: nn.Module) -> list[tuple[str, Picture]]:
        """The first held-out pictures enlarged by the model, in a tenth of the steps."""
        sampler = self.sampler_of(model)
        sampler.steps = max(1, self.steps // 10)
        held = self.held.items[:SHOWN]
        with evaluating(model):
            return [(item.name, enlarged(sampler, item.read()[0])) for item in held]

    def config(self) -> dict[str, Any]:
        """What sampling needs later."""
        return {
            "scale": self.scale, "image_range": 1.0, "steps": self.steps, "sampler": self.sampler,
            "sampler_settings": dict(self.sampler_settings), "start": self.start,
            "reach": self.reach, "timesteps": self.schedule.steps,
        }  # fmt: skip

    @cached_property
    def _fixed(self) -> list[Batch]:
        """The held-out set: crops of the held-out pictures, timesteps at equal distances."""
        patches = PairPatches(self.held, self.patch + 2 * MARGIN, self.scale, 0, augment=False)
        crops = _Crops(patches, self.scale, self.schedule.steps, self.one_time, 0)
        made = dict(crops.draw(0, self.probes, np.arange(self.probes)))
        made["t"] = (torch.arange(self.probes) * 2 + 1) * self.schedule.steps // (2 * self.probes)
        parts = [range(at, min(at + 16, self.probes)) for at in range(0, self.probes, 16)]
        return [
            {name: value[part.start : part.stop] for name, value in made.items()} for part in parts
        ]

    def _crops(self, seed: int) -> _Crops:
        patches = PairPatches(self.photos, self.patch + 2 * MARGIN, self.scale, seed)
        return _Crops(patches, self.scale, self.schedule.steps, self.one_time, seed)

    def _noisy(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The noisy picture, its condition, its timestep and the noise in it."""
        picture, noise, t = batch["picture"], batch["noise"], batch["t"]
        return q_sample(self.schedule, picture, t, noise), batch["condition"], t, noise

    def _checked(self, output: object, noise: Tensor) -> Tensor:
        made = main_tensor(output)
        if made.shape != noise.shape:
            raise ShapeError(
                f"the model made {tuple(made.shape)} of noise {tuple(noise.shape)}: a network that "
                "predicts noise gives the shape of its noisy picture"
            )
        return made.float()


@dataclass(frozen=True)
class _Crops:
    """Batches of photograph, condition, timestep and noise; pure in seed and step."""

    patches: PairPatches
    scale: int
    times: int
    one_time: bool
    seed: int

    def draw(self, step: int, count: int, places: Indices) -> Batch:
        """The samples at some places of the batch of a step."""
        low, high = self.patches.batch(step, count, places)
        cut = slice(MARGIN * self.scale, -MARGIN * self.scale)
        random = random_of(self.seed, step + TIMES)
        shape = (count, 3, *(side - 2 * MARGIN * self.scale for side in high.shape[1:3]))
        # A batch covers the timesteps evenly: one from each of `count` equal parts, in any order.
        parts = random.permutation(count) + random.random(count)
        times = np.minimum((parts * self.times / count).astype(np.int64), self.times - 1)
        if self.one_time:
            times[:] = int(random.integers(self.times))
        noise = random.standard_normal(shape, dtype=np.float32)
        return {
            "picture": _planes(high)[..., cut, cut],
            "condition": enlarge(_planes(low), self.scale)[..., cut, cut],
            "t": torch.from_numpy(times[places]),
            "noise": torch.from_numpy(noise[places]),
        }


def _planes(pictures: Pictures) -> Tensor:
    """Shapes: (N, H, W, 3) uint8 -> (N, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float() / 255


def open_diffusion(request: Request) -> Diffusion:
    """The task of a folder of HR photographs (or HR/LR pairs); pixels are in [0, 1].

    Raises: as `open_sr`; UsageError for another range of pixels or an impossible option.
    """
    if request.image_range != 1.0:
        raise UsageError(
            f"the diffusion process is defined for pixels in [0, 1], not [0, {request.image_range}]"
        )
    if request.data is None or request.scale is None:
        what = "HR photos: give --data" if request.data is None else "a scale: give --scale"
        raise DataError(f"diffusion for super-resolution needs {what}")
    options = dict(request.options)
    patch = int(options.get("patch", 64))
    plain = Request(
        request.data, request.held, request.scale, options={"patch": patch + 2 * MARGIN}
    )
    sr = open_sr(plain)
    task = Diffusion(
        sr.photos, sr.held, request.scale,
        fingerprint=hashlib.sha256(f"diffusion|{sr.fingerprint}".encode()).hexdigest(),
        **options,
    )  # fmt: skip
    if task.probes < 1 or task.patch < 1:
        raise UsageError("probes and patch are counts: give 1 or more")
    return task
