"""The task of diffusion: aligned crops, the loss as written, a fixed held-out set, the sampler."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import DataError, ShapeError, UsageError
from bitcompress.models.diffusion import enlarge
from bitcompress.tasks import Diffusion, Request, task_of
from bitcompress.tasks.apply import apply
from bitcompress.tasks.sample import Sampler, enlarged, make_stepper, padded, sampler_from


@pytest.fixture
def task(photos: Path) -> Diffusion:
    options = {"patch": 8, "probes": 20, "steps": 4, "pictures": 1}
    found = task_of(Request(data=photos, scale=2, options=options), "diffusion")
    assert isinstance(found, Diffusion)
    return found


class Knowing(nn.Module):
    """Says the noise in a picture that is its own condition; counts its runs."""

    multiple = 4

    def __init__(self, task: Diffusion) -> None:
        super().__init__()
        self.schedule = task.schedule
        self.seen: list[tuple[int, ...]] = []

    def forward(self, noisy: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        self.seen.append((int(t[0]), *noisy.shape[-2:]))
        signal, spread = self.schedule.at(t, noisy)
        return (noisy - signal * condition) / spread


def test_the_condition_is_cut_from_the_whole_enlarged_picture(task: Diffusion) -> None:
    """Each crop of the condition is found in the enlarged picture, where the photograph is."""
    batch = task.batches(4, seed=1)(0, 0, 1)[0][1]
    for picture, condition in zip(batch["picture"], batch["condition"], strict=True):
        found = 0
        for item in task.photos:
            low, high = item.read()
            whole = enlarge(torch.from_numpy(low.transpose(2, 0, 1).copy())[None].float() / 255, 2)
            truth = torch.from_numpy(high.transpose(2, 0, 1).copy())[None].float() / 255
            for form in range(8):
                turned = [torch.rot90(x, form % 4, (-2, -1)) for x in (whole, truth)]
                if form >= 4:
                    turned = [x.flip(-1) for x in turned]
                places = turned[1].unfold(-2, 16, 1).unfold(-2, 16, 1)[0].permute(1, 2, 0, 3, 4)
                for y, x in (places == picture).all(-1).all(-1).all(-1).nonzero().tolist():
                    cut = turned[0][0, :, y : y + 16, x : x + 16]
                    found += bool(torch.allclose(cut, condition, atol=1e-6))
        assert found


def test_batches_are_a_pure_function_of_seed_and_step(task: Diffusion) -> None:
    source = task.batches(5, seed=1)
    one, again = source(3, 0, 1)[0][1], task.batches(5, seed=1)(3, 0, 1)[0][1]
    assert all(torch.equal(one[name], again[name]) for name in one)
    shares = [source(3, process, 2)[0][1] for process in range(2)]
    for name in one:
        assert torch.equal(shares[0][name], one[name][0::2])
        assert torch.equal(shares[1][name], one[name][1::2])
    assert not torch.equal(source(4, 0, 1)[0][1]["noise"], one["noise"])


def test_a_batch_covers_the_timesteps(task: Diffusion, photos: Path) -> None:
    t = task.batches(20, seed=0)(0, 0, 1)[0][1]["t"]
    assert sorted((t // 100).tolist()) == list(range(20))
    options = {"patch": 8, "one_time": True}
    alike = task_of(Request(data=photos, scale=2, options=options), "diffusion")
    assert len(set(alike.batches(20, seed=0)(0, 0, 1)[0][1]["t"].tolist())) == 1


def test_the_loss_is_the_written_formula(task: Diffusion, photos: Path) -> None:
    class Half(nn.Module):
        def forward(self, noisy: Tensor, condition: Tensor, t: Tensor) -> Tensor:
            return 0.5 * noisy + 0.1 * condition

    batch = task.batches(3, seed=0)(0, 0, 1)[0][1]
    total = 0.0
    for n in range(3):
        kept = float(task.schedule.kept[int(batch["t"][n])])
        noisy = kept**0.5 * batch["picture"][n] + (1 - kept) ** 0.5 * batch["noise"][n]
        said = 0.5 * noisy + 0.1 * batch["condition"][n]
        total += float((said - batch["noise"][n]).abs().mean()) / 3
    assert float(task.loss(Half(), batch)) == pytest.approx(total, rel=1e-5)
    taught = task_of(
        Request(data=photos, scale=2, options={"patch": 8, "distill": 1.0}), "diffusion"
    )
    assert float(taught.loss(Half(), batch, Half())) == 0.0


def test_a_network_that_knows_the_picture(task: Diffusion) -> None:
    """It answers with the condition, so sampling gives the enlarged picture back."""
    net = Knowing(task)
    figures = task.evaluate(net)
    # only the difference of condition and photograph is left, magnified where noise is small
    assert figures["noise_l1"] > 0
    assert figures["psnr_y"] == pytest.approx(figures["bicubic_psnr_y"], abs=1.5)
    assert task.noise_error(net) == figures["noise_l1"]


def test_the_sampler_runs_the_timesteps_on_padded_pictures(task: Diffusion) -> None:
    net, low = Knowing(task), torch.rand(1, 3, 9, 7)
    out = Sampler(net, 2, steps=50)(low)
    assert [t for t, _, _ in net.seen] == list(range(1960, -1, -40))
    assert {size for _, *size in map(tuple, net.seen) for size in [tuple(size)]} == {(20, 16)}
    torch.testing.assert_close(out, enlarge(low, 2), atol=1e-3, rtol=0)
    net.seen.clear()
    Sampler(net, 2, steps=50, start=400)(low)
    assert [t for t, _, _ in net.seen] == list(range(400, -1, -40))
    assert torch.equal(Sampler(net, 2, steps=3)(low), Sampler(net, 2, steps=3)(low))


def test_the_estimate_stays_within_reach_of_the_condition(task: Diffusion) -> None:
    class Wrong(nn.Module):
        def forward(self, noisy: Tensor, condition: Tensor, t: Tensor) -> Tensor:
            return noisy + 0.1

    low = 0.3 + 0.4 * torch.rand(1, 3, 6, 6)
    far = float((Sampler(Wrong(), 2)(low) - enlarge(low, 2)).abs().max())
    near = float((Sampler(Wrong(), 2, reach=0.05)(low) - enlarge(low, 2)).abs().max())
    assert near <= 0.05 + 1e-3 < far
    net = Knowing(task)
    bounded = Sampler(net, 2, reach=0.05)(low)
    torch.testing.assert_close(bounded, Sampler(net, 2)(low), atol=1e-3, rtol=0)
    with pytest.raises(UsageError, match="reach"):
        Sampler(net, 2, reach=0.0)


def test_tiles_share_the_noise(task: Diffusion) -> None:
    net, low = Knowing(task), torch.rand(1, 3, 260, 330)
    whole = Sampler(net, 2, steps=2)(low)
    net.seen.clear()
    tiled = Sampler(net, 2, steps=2, limit=100)(low)
    assert len(net.seen) == 2 * 4
    torch.testing.assert_close(tiled, whole, atol=1e-5, rtol=0)


def test_steppers_by_name(task: Diffusion) -> None:
    stepper = make_stepper("ddim", clip=(0.0, 1.0), consistent=True)
    assert stepper.clip == (0.0, 1.0) and stepper.consistent
    with pytest.raises(UsageError, match="ddim, ddpm"):
        make_stepper("euler")
    with pytest.raises(UsageError, match="settings"):
        make_stepper("ddpm", consistent=True)
    with pytest.raises(UsageError, match="0 to 1999"):
        Sampler(Knowing(task), 2, start=2000)


def test_the_config_is_enough_to_sample(task: Diffusion) -> None:
    net = Knowing(task)
    config = json.loads(json.dumps(task.config()))
    pixels = np.full((6, 5, 3), 77, np.uint8)
    made = enlarged(sampler_from(config, net, steps=2), pixels)
    assert made.shape == (12, 10, 3) and np.abs(made.astype(int) - 77).max() <= 1
    applied = apply("diffusion", {**config, "steps": 2}, net, pixels).picture
    assert applied is not None and np.array_equal(applied, made)
    assert [name for name, _ in task.samples(net)] == [item.name for item in task.held]
    assert task.samples(net)[0][1].shape == task.held.items[0].read()[1].shape


def test_padding_reflects_and_repeats_where_it_cannot() -> None:
    x = torch.arange(3.0).view(1, 1, 1, 3)
    assert padded(x, 4)[0, 0].tolist() == [[0, 1, 2, 2]] * 4  # one row cannot be reflected
    y = torch.arange(6.0).view(1, 1, 2, 3).repeat(1, 1, 2, 1)[:, :, :3]
    assert padded(y, 4)[0, 0, 0].tolist() == [0, 1, 2, 1]
    assert padded(y, 4)[0, 0, 3].tolist()[:3] == y[0, 0, 1].tolist()
    assert padded(y, 3) is y


def test_what_cannot_be_is_refused(task: Diffusion, photos: Path) -> None:
    for request, said in (
        (Request(scale=2), "--data"),
        (Request(data=photos), "--scale"),
        (Request(data=photos, scale=2, options={"patch": 64}), "smaller"),
    ):
        with pytest.raises(DataError, match=said):
            task_of(request, "diffusion")
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        task_of(Request(data=photos, scale=2, image_range=255.0), "diffusion")
    with pytest.raises(UsageError, match="1 or more"):
        task_of(Request(data=photos, scale=2, options={"patch": 8, "probes": 0}), "diffusion")

    class Wrong(nn.Module):
        def forward(self, noisy: Tensor, condition: Tensor, t: Tensor) -> Tensor:
            return noisy[:, :1]

    with pytest.raises(ShapeError, match="predicts noise"):
        task.loss(Wrong(), task.batches(1, seed=0)(0, 0, 1)[0][1])


def test_the_example_is_what_the_network_takes(task: Diffusion) -> None:
    noisy, condition, t = task.example(Knowing(task))
    assert noisy.shape == condition.shape == (1, 3, 16, 16)
    assert t.shape == (1,) and t.dtype == torch.int64
    assert task.size() == len(task.photos) == 4
