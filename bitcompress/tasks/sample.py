"""A diffusion network as a model that enlarges pictures: the sampler around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitcompress.data.images import Picture
from bitcompress.errors import UsageError
from bitcompress.models.diffusion import (
    STEPPERS,
    Schedule,
    diffusers_stepper,
    enlarge,
    linear_schedule,
    q_sample,
)
from bitcompress.tasks.base import device_of
from bitcompress.tiles import cuts

LIMIT = 1024 * 1024
"""Pixels of a result up to which the network sees the whole picture in a step."""
TILE, OVERLAP = 512, 64

Progress = Callable[[str, int, int], None]


def make_stepper(name: str = "ddim", schedule: Schedule | None = None, **settings: Any) -> Any:
    """A stepper by name: ours ("ddim", "ddpm") or a scheduler class of diffusers.

    `settings` go to its constructor: clip and consistent for ours.
    Raises: UsageError for an unknown name or setting; Unavailable without diffusers.
    """
    schedule = schedule or linear_schedule()
    if name not in STEPPERS:
        if not name[:1].isupper():
            raise UsageError(
                f"sampler {name!r} is unknown: give {', '.join(STEPPERS)} or the name of a "
                "scheduler class of diffusers, such as DDIMScheduler"
            )
        return diffusers_stepper(name, schedule, **settings)
    try:
        return STEPPERS[name](schedule, **settings)
    except TypeError as error:
        raise UsageError(f"sampler {name!r} does not take these settings: {error}") from error


class Sampler(nn.Module):
    """Draws a picture for a low-resolution one, by running the network once a step.

    `net(noisy, condition, t)` predicts noise; it may be float, binary or packed. Equal pictures
    give equal results: the noise follows from the seed and the size. Pictures are reflected at the
    right and the bottom up to the multiple that the network needs. Above `limit` pixels the network
    runs on tiles that overlap, within each step, so that tiles share one noise and leave no seam
    of another draw.
    `start` skips the steps above that timestep: the enlarged picture, noised to it, takes the place
    of pure noise. `reach` keeps the estimated photograph within that distance of the enlarged
    picture, and takes the noise anew from it: at the first steps an error of the noise is magnified
    a hundred times in the estimate, which a small network cannot avoid and later steps not mend.

    Shapes: (N, 3, h, w) -> (N, 3, scale h, scale w). Units: pixels in [0, 1].
    Source: BI-DiffSR (NeurIPS 2024): DDIM, 50 steps, from pure noise at t = 1960.
    Deviations: `start` and `reach`, off by default; tiles (the published code runs whole pictures).
    """

    image_range = 1.0

    def __init__(
        self,
        net: nn.Module,
        scale: int,
        *,
        steps: int = 50,
        stepper: Any = None,
        schedule: Schedule | None = None,
        start: int | None = None,
        reach: float | None = None,
        seed: int = 0,
        limit: int = LIMIT,
        progress: Progress | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.scale, self.steps, self.seed, self.limit = scale, steps, seed, limit
        self.schedule = schedule or linear_schedule()
        self.stepper = make_stepper(schedule=self.schedule) if stepper is None else stepper
        self.start, self.reach = start, reach
        self.progress = progress
        if start is not None and not 0 <= start < self.schedule.steps:
            raise UsageError(
                f"sampling cannot start at timestep {start}: give 0 to {self.schedule.steps - 1}"
            )
        if reach is not None and reach <= 0:
            raise UsageError(f"a reach of {reach} leaves the enlarged picture alone: give 0.2")

    def forward(self, low: Tensor) -> Tensor:
        """Shapes: (N, 3, h, w) -> (N, 3, scale h, scale w)."""
        with torch.no_grad():
            condition = enlarge(low, self.scale)
            height, width = condition.shape[-2:]
            condition = padded(condition, _multiple(self.net))
            x, timesteps = self._begin(condition)
            for number, t in enumerate(timesteps):
                noise = self._bounded(self._noise(x, condition, int(t)), x, condition, int(t))
                # The stepper draws from a stream of its own for each step, on the CPU.
                random = torch.Generator().manual_seed(self.seed + 1 + number)
                x = self.stepper.step(noise, t, x, generator=random).prev_sample
                if self.progress is not None:
                    self.progress("sample", number + 1, len(timesteps))
            return x[..., :height, :width].clamp(0, 1)

    def _begin(self, condition: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The first noisy picture and the timesteps to come."""
        self.stepper.set_timesteps(self.steps)
        timesteps = list(self.stepper.timesteps)
        random = torch.Generator().manual_seed(self.seed)
        x = torch.randn(condition.shape, generator=random).to(condition)
        if self.start is not None:
            timesteps = [t for t in timesteps if int(t) <= self.start]
            first = torch.full((len(x),), int(timesteps[0]), device=x.device)
            x = q_sample(self.schedule, condition, first, x)
        return x, timesteps

    def _bounded(self, noise: Tensor, x: Tensor, condition: Tensor, t: int) -> Tensor:
        """The noise whose estimate of the photograph is within reach of the condition."""
        if self.reach is None:
            return noise
        signal, spread = self.schedule.at(torch.tensor([t], device=x.device), x)
        picture = (x - spread * noise) / signal
        picture = torch.clamp(picture, condition - self.reach, condition + self.reach)
        return (x - signal * picture) / spread

    def _noise(self, x: Tensor, condition: Tensor, t: int) -> Tensor:
        """What the network says of the whole picture, or of its tiles side by side."""
        height, width = x.shape[-2:]
        times = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        if height * width <= self.limit:
            return self.net(x, condition, times)  # type: ignore[no-any-return]
        out = torch.empty_like(x)
        for top, bottom, keep_top, keep_bottom in cuts(height, TILE, OVERLAP):
            for left, right, keep_left, keep_right in cuts(width, TILE, OVERLAP):
                at = (..., slice(top, bottom), slice(left, right))
                part = self.net(x[at].contiguous(), condition[at].contiguous(), times)
                out[..., keep_top:keep_bottom, keep_left:keep_right] = part[
                    ..., keep_top - top : keep_bottom - top, keep_left - left : keep_right - left
                ]
        return out


def sampler_from(config: Mapping[str, Any], net: nn.Module, **settings: Any) -> Sampler:
    """The sampler that the `config` of a diffusion task describes, around a network.

    `settings` (steps, seed, start, progress) take the place of what the config says.
    Raises: KeyError where the config is of another task.
    """
    stepper = make_stepper(config["sampler"], **dict(config["sampler_settings"] or {}))
    known = {
        "steps": int(config["steps"]), "start": config["start"], "reach": config["reach"]
    }  # fmt: skip
    return Sampler(net, int(config["scale"]), stepper=stepper, **{**known, **settings})


def enlarged(sampler: Sampler, low: Picture) -> Picture:
    """A picture through the sampler. Shapes: (h, w, 3) -> (scale h, scale w, 3), uint8."""
    device = device_of(sampler)
    x = torch.from_numpy(np.ascontiguousarray(low)).permute(2, 0, 1)[None].float() / 255
    y = sampler(x.to(device))[0].float().cpu()
    pixels: Picture = (y * 255).round().permute(1, 2, 0).byte().numpy()
    return pixels


def padded(picture: Tensor, multiple: int) -> Tensor:
    """The picture reflected at the bottom and the right up to a multiple.

    Shapes: (N, 3, H, W) -> (N, 3, H', W'). A side too short to reflect repeats its edge.
    """
    down, right = (-side % multiple for side in picture.shape[-2:])
    if not down and not right:
        return picture
    short = down >= picture.shape[-2] or right >= picture.shape[-1]
    return functional.pad(picture, (0, right, 0, down), mode="replicate" if short else "reflect")


def _multiple(net: nn.Module) -> int:
    """What height and width must divide by: the network says so, else 8 as in the paper."""
    found = getattr(net, "multiple", 8)
    return found if isinstance(found, int) else 8
