"""The diffusion process: noise levels, noisy pictures, and steps that take the noise away again.

The steppers have the interface of diffusers' schedulers (`set_timesteps`, `timesteps`, `step`), so
those plug in wherever one of these is taken. All tables are computed in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bitcompress.errors import DataError, Unavailable, UsageError

STEPS, FIRST_BETA, LAST_BETA = 2000, 1e-6, 1e-2
"""The schedule of SR3 and BI-DiffSR."""


@dataclass(frozen=True)
class Schedule:
    """How much of a picture is left at each timestep.

    `kept` is the product of (1 - beta) up to each step, in double. Shapes: (T,).
    """

    kept: Tensor

    @property
    def steps(self) -> int:
        """T, the number of training timesteps."""
        return len(self.kept)

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of picture and noise at each sample's step, to multiply `like` with.

        Shapes: (N,) -> (N, 1, ...) twice. Raises: DataError for steps outside of the schedule.
        """
        if (
            t.is_floating_point()
            or t.numel() == 0
            or int(t.min()) < 0
            or int(t.max()) >= self.steps
        ):
            raise DataError(
                f"timesteps are integers from 0 to {self.steps - 1}; "
                f"{t.dtype} {t.flatten()[:4].tolist()} was given"
            )
        kept = self.kept.to(t.device)[t].reshape(-1, *[1] * (like.dim() - 1))
        return kept.sqrt().to(like.dtype), (1 - kept).sqrt().to(like.dtype)


def linear_schedule(
    steps: int = STEPS, first: float = FIRST_BETA, last: float = LAST_BETA
) -> Schedule:
    """Betas on a straight line. Source: DDPM; the numbers are those of SR3 and BI-DiffSR.

    Raises: UsageError for betas outside of [0, 1) or fewer than 2 steps.
    """
    if steps < 2 or not 0 <= first <= last < 1:
        raise UsageError(f"betas from {first} to {last} in {steps} steps make no schedule")
    betas = torch.linspace(first, last, steps, dtype=torch.float64)
    return Schedule(torch.cumprod(1 - betas, 0))


def q_sample(schedule: Schedule, picture: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """The noisy picture of step t: sqrt(kept) picture + sqrt(1 - kept) noise.

    Shapes: (N, ...), (N,), (N, ...) -> (N, ...). Raises: DataError as `Schedule.at`.
    """
    signal, spread = schedule.at(t, picture)
    return signal * picture + spread * noise


@dataclass(frozen=True)
class Stepped:
    """What one step gives, named as diffusers names it."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class Stepper(Protocol):
    """What a sampler needs of a scheduler: ours, and those of diffusers."""

    timesteps: Tensor

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the timesteps of a run."""

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **further: Any) -> Any:
        """One step towards the picture; the result has `prev_sample`."""


def leading_timesteps(steps: int, count: int) -> Tensor:
    """`count` timesteps at equal strides that end with 0: 1960, 1920, ..., 0 for 50 of 2000.

    Raises: UsageError where there are fewer timesteps than asked for.
    """
    if not 1 <= count <= steps:
        raise UsageError(f"{count} of {steps} timesteps cannot be taken: give 1 to {steps}")
    return torch.arange(count - 1, -1, -1, dtype=torch.int64) * (steps // count)


class _Steps:
    """Timesteps and the estimate of the picture, which both steppers share."""

    def __init__(self, schedule: Schedule, clip: tuple[float, float] | None) -> None:
        self.schedule = schedule
        self.clip = clip
        self.timesteps = torch.empty(0, dtype=torch.int64)
        self._stride = 0

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the timesteps of a run."""
        self.timesteps = leading_timesteps(self.schedule.steps, num_inference_steps)
        self._stride = self.schedule.steps // num_inference_steps

    def _kept(self, t: int) -> tuple[float, float]:
        """What is kept at t and at the step after it; all of it after the last one."""
        if not self._stride:
            raise UsageError("call set_timesteps(count) before the first step")
        if not 0 <= t < self.schedule.steps:
            raise DataError(f"timestep {t} is outside of 0 to {self.schedule.steps - 1}")
        before = t - self._stride
        return float(self.schedule.kept[t]), float(
            self.schedule.kept[before]
        ) if before >= 0 else 1.0

    def _picture(self, noise: Tensor, sample: Tensor, kept: float) -> Tensor:
        """The picture that this noise leaves, cut to the range of pictures."""
        picture: Tensor = (sample - (1 - kept) ** 0.5 * noise) / kept**0.5
        return picture if self.clip is None else picture.clamp(*self.clip)


class DDIM(_Steps):
    """Deterministic steps (eta 0): the estimated picture, noised again to the next level.

    `clip` bounds the estimate; [-1, 1] is the published setting although pixels are in [0, 1].
    `consistent` takes the noise anew from the bounded estimate, so that an estimate out of range
    does not leave more noise in the sample than the next step expects.
    Source: Song et al. 2021; as diffusers' DDIMScheduler with "leading" spacing and a final 1.
    Deviation: `consistent`, off by default, is diffusers' use_clipped_model_output.
    """

    def __init__(
        self,
        schedule: Schedule,
        clip: tuple[float, float] | None = (-1.0, 1.0),
        *,
        consistent: bool = False,
    ) -> None:
        super().__init__(schedule, clip)
        self.consistent = consistent

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, **further: Any) -> Stepped:
        """One step; `further` (eta, generator) is taken for the sake of the interface."""
        kept, after = self._kept(int(timestep))
        picture = self._picture(model_output, sample, kept)
        noise = model_output
        if self.consistent and kept < 1:
            noise = (sample - kept**0.5 * picture) / (1 - kept) ** 0.5
        return Stepped(after**0.5 * picture + (1 - after) ** 0.5 * noise, picture)


class DDPM(_Steps):
    """Ancestral steps: a draw from the posterior of the next level given the estimated picture.

    Source: Ho et al. 2020, the smaller of the two variances, for any stride.
    """

    def __init__(self, schedule: Schedule, clip: tuple[float, float] | None = (-1.0, 1.0)) -> None:
        super().__init__(schedule, clip)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: torch.Generator | None = None,
        **further: Any,
    ) -> Stepped:
        """One step; no noise is added by the last one."""
        t = int(timestep)
        kept, after = self._kept(t)
        picture = self._picture(model_output, sample, kept)
        ratio = kept / after
        mean = (after**0.5 * (1 - ratio) / (1 - kept)) * picture + (
            ratio**0.5 * (1 - after) / (1 - kept)
        ) * sample
        if t == 0:
            return Stepped(mean, picture)
        variance = max((1 - after) / (1 - kept) * (1 - ratio), 1e-20)
        drawn = torch.randn(sample.shape, generator=generator, dtype=sample.dtype)
        return Stepped(mean + variance**0.5 * drawn.to(sample.device), picture)


STEPPERS: dict[str, type[DDIM] | type[DDPM]] = {"ddim": DDIM, "ddpm": DDPM}


def diffusers_stepper(name: str, schedule: Schedule | None = None, **settings: Any) -> Any:
    """A scheduler of diffusers for our schedule, by its class name ("DDIMScheduler", ...).

    `settings` go to its constructor; the defaults are this schedule's betas and "leading" spacing.
    Raises: Unavailable where diffusers is not installed; UsageError for an unknown name.
    """
    try:
        import diffusers
    except ImportError as error:
        raise Unavailable(
            f"diffusers cannot be imported ({error}): pip install 'bitcompress[diffusion]', or "
            "sample with ddim or ddpm"
        ) from error
    found = getattr(diffusers, name, None)
    if found is None:
        raise UsageError(f"diffusers has no scheduler {name!r}: DDIMScheduler is one")
    kept = (schedule or linear_schedule()).kept
    before = torch.cat([torch.ones(1, dtype=kept.dtype), kept[:-1]])
    betas = (1 - kept / before).tolist()
    known = {
        "num_train_timesteps": len(kept),
        "trained_betas": betas,
        "timestep_spacing": "leading",
    }
    return found(**{**known, **settings})


def enlarge(low: Tensor, scale: int) -> Tensor:
    """The low-resolution picture at the size of the result, in whole 255ths: the condition.

    Shapes: (N, 3, h, w) -> (N, 3, scale h, scale w). Units: pixels in [0, 1].
    Source: BI-DiffSR takes OpenCV's bicubic (a = -0.75, edges repeated, 8-bit result), as torch's.
    """
    large = torch.nn.functional.interpolate(low, scale_factor=scale, mode="bicubic")
    return (large.clamp(0, 1) * 255).round() / 255
