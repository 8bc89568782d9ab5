"""Noise levels and steps: values of the paper, laws of the process, diffusers where installed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bitcompress.errors import DataError, UsageError
from bitcompress.models.diffusion import (
    DDIM,
    DDPM,
    STEPPERS,
    Schedule,
    diffusers_stepper,
    enlarge,
    leading_timesteps,
    linear_schedule,
    q_sample,
)

SCHEDULE = linear_schedule()


@pytest.mark.parametrize(
    ("t", "kept"),
    [
        (400, 0.66909),
        (800, 0.20077),
        (1000, 0.08137),
        (1200, 0.02697),
        (1600, 0.00162),
        (1960, 6.4665e-5),
        (1999, 4.3860e-5),
    ],
)
def test_the_schedule_of_the_paper(t: int, kept: float) -> None:
    assert float(SCHEDULE.kept[t]) == pytest.approx(kept, rel=5e-4)


def test_the_schedule_is_the_product_of_a_loop() -> None:
    left = 1.0
    for t in range(2000):
        left *= 1 - (1e-6 + (1e-2 - 1e-6) * t / 1999)
        assert float(SCHEDULE.kept[t]) == pytest.approx(left, rel=1e-12)


def test_timesteps_of_the_paper_use_each_table_ten_times() -> None:
    timesteps = leading_timesteps(2000, 50).tolist()
    assert timesteps == list(range(1960, -1, -40))
    assert [sum(t * 5 // 2000 == g for t in timesteps) for g in range(5)] == [10] * 5
    assert leading_timesteps(10, 3).tolist() == [6, 3, 0]
    with pytest.raises(UsageError, match="1 to 10"):
        leading_timesteps(10, 11)


def test_noise_is_added_to_each_sample_at_its_own_step() -> None:
    picture, noise = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    noisy = q_sample(SCHEDULE, picture, torch.tensor([0, 1200]), noise)
    for n, t in ((0, 0), (1, 1200)):
        kept = float(SCHEDULE.kept[t])
        plain = math.sqrt(kept) * picture[n] + math.sqrt(1 - kept) * noise[n]
        torch.testing.assert_close(noisy[n], plain)
    for bad in (torch.tensor([2000]), torch.tensor([-1]), torch.tensor([3.0])):
        with pytest.raises(DataError, match="0 to 1999"):
            q_sample(SCHEDULE, picture[:1], bad, noise[:1])


def run(stepper: Any, picture: Tensor, count: int, oracle: bool = True) -> Tensor:
    """Sampling with a network that knows the picture, or always says "no noise"."""
    stepper.set_timesteps(count)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(picture.shape, generator=generator)
    for t in stepper.timesteps:
        kept = SCHEDULE.kept[int(t)].item()
        noise = (x - kept**0.5 * picture) / (1 - kept) ** 0.5 if oracle else torch.zeros_like(x)
        x = stepper.step(noise, t, x, generator=generator).prev_sample
    return x


@pytest.mark.parametrize("kind", STEPPERS)
@pytest.mark.parametrize("count", [1, 5, 50])
def test_a_network_that_knows_the_picture_samples_it(kind: str, count: int) -> None:
    picture = torch.rand(1, 3, 8, 8, dtype=torch.float64).float()
    out = run(STEPPERS[kind](SCHEDULE), picture, count)
    torch.testing.assert_close(out, picture, atol=2e-4, rtol=0)


def test_the_estimate_is_cut_to_its_range() -> None:
    for clip in ((-1.0, 1.0), (0.0, 1.0)):
        stepper = DDIM(SCHEDULE, clip)
        out = run(stepper, torch.zeros(1, 3, 4, 4), 50, oracle=False)
        assert clip[0] <= float(out.min()) and float(out.max()) <= clip[1]
    assert float(run(DDIM(SCHEDULE, None), torch.zeros(1, 3, 4, 4), 50, False).abs().max()) > 1


def test_consistent_steps_keep_the_estimate_and_the_sample_together() -> None:
    sample, noise = torch.randn(1, 3, 4, 4), 3 * torch.randn(1, 3, 4, 4)
    stepper = DDIM(SCHEDULE, (0.0, 1.0), consistent=True)
    stepper.set_timesteps(50)
    stepped = stepper.step(noise, 800, sample)
    kept, after = SCHEDULE.kept[800].item(), SCHEDULE.kept[760].item()
    picture = stepped.pred_original_sample
    assert torch.equal(picture, ((sample - (1 - kept) ** 0.5 * noise) / kept**0.5).clamp(0, 1))
    left = (stepped.prev_sample - after**0.5 * picture) / (1 - after) ** 0.5
    torch.testing.assert_close(kept**0.5 * picture + (1 - kept) ** 0.5 * left, sample)


def test_ancestral_steps_have_the_posterior_of_the_process() -> None:
    """Mean and variance of q(x_s | x_t, x_0) by the rule of Bayes for Gaussians."""
    stepper = DDPM(SCHEDULE, None)
    stepper.set_timesteps(50)
    kept, after = SCHEDULE.kept[400].item(), SCHEDULE.kept[360].item()
    x0, xt = 0.3, 0.9
    noise = torch.full((1, 1, 200, 200), (xt - kept**0.5 * x0) / (1 - kept) ** 0.5)
    drawn = stepper.step(
        noise, 400, torch.full_like(noise, xt), generator=torch.Generator().manual_seed(1)
    ).prev_sample
    ratio = kept / after
    precision = 1 / (1 - after) + ratio / (1 - ratio)
    mean = (after**0.5 * x0 / (1 - after) + ratio**0.5 * xt / (1 - ratio)) / precision
    assert float(drawn.mean()) == pytest.approx(mean, abs=3e-3)
    assert float(drawn.var()) == pytest.approx(1 / precision, rel=3e-2)


def test_steps_before_timesteps_and_outside_are_refused() -> None:
    x = torch.zeros(1, 3, 4, 4)
    with pytest.raises(UsageError, match="set_timesteps"):
        DDIM(SCHEDULE).step(x, 0, x)
    stepper = DDIM(SCHEDULE)
    stepper.set_timesteps(50)
    with pytest.raises(DataError, match="2000"):
        stepper.step(x, 2000, x)
    with pytest.raises(UsageError, match="no schedule"):
        linear_schedule(1)


@pytest.mark.parametrize(("name", "kind"), [("DDIMScheduler", DDIM), ("DDPMScheduler", DDPM)])
def test_diffusers_steps_the_same(name: str, kind: type[DDIM] | type[DDPM]) -> None:
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    theirs, ours = diffusers_stepper(name, SCHEDULE), kind(SCHEDULE)
    theirs.set_timesteps(50)
    ours.set_timesteps(50)
    assert torch.equal(theirs.timesteps, ours.timesteps)
    torch.manual_seed(0)
    for t in (1960, 1200, 400, 40, 0):
        noise, sample = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8)
        both = [
            s.step(noise, t, sample, generator=torch.Generator().manual_seed(t)).prev_sample
            for s in (theirs, ours)
        ]
        torch.testing.assert_close(*both, rtol=0, atol=1e-4)
    with pytest.raises(UsageError, match="DDIMScheduler"):
        diffusers_stepper("NoSuchScheduler")


def test_the_condition_is_a_bicubic_of_whole_255ths() -> None:
    low = torch.rand(1, 3, 5, 6)
    high = enlarge(low, 2)
    assert high.shape == (1, 3, 10, 12)
    torch.testing.assert_close(high * 255, (high * 255).round())
    assert torch.equal(
        enlarge(torch.full((1, 3, 4, 4), 51 / 255), 4), torch.full((1, 3, 16, 16), 0.2)
    )
    assert isinstance(SCHEDULE, Schedule) and SCHEDULE.steps == 2000
