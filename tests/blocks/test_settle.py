"""Thresholds, gains and least squares before training, against medians and NumPy's solver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitcompress.blocks import BlockPolicy, insert_blocks, prepare_binary, settle
from bitcompress.blocks.cuts import by_channel, settle_cut
from bitcompress.blocks.fit import LEAST, Wanted, fit, regress
from bitcompress.blocks.settle import joined
from bitcompress.errors import DataError
from bitcompress.graph.capture import as_inputs
from bitcompress.layers.binary import METHODS, BinaryBlock, BlockSpec, binary_block
from bitcompress.models import MODELS
from bitcompress.models.load import load_model

from ..makes import made

WEIGHTS = Path(__file__).parents[2].parent / "shared" / "data" / "weights"


def block(method: str = "reactnet", **choice: Any) -> BinaryBlock:
    torch.manual_seed(0)
    outputs = 6 if method == "bidiffsr" else 4
    return binary_block(nn.Conv2d(6, outputs, 3, padding=1), BlockSpec(method, **choice)).eval()


def shares(of: BinaryBlock, x: Tensor) -> Tensor:
    """The share of bits that are set, by channel."""
    bits = of.threshold.bounds(x).theta
    theta = bits.view(-1, x.shape[1], 1, 1) if bits.dim() > 1 else bits.view(1, -1, 1, 1)
    return (x >= theta).float().mean((0, 2, 3))


# ---- Where blocks cut ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["reactnet", "bidense", "bidiffsr"])
def test_a_channel_is_cut_in_halves_wherever_it_lies(method: str) -> None:
    made_block = block(method)
    x = torch.randn(4, 6, 16, 16) * torch.logspace(-2, 2, 6).view(1, 6, 1, 1) + 7
    settle_cut(made_block, x, trained=True)
    assert torch.allclose(shares(made_block, x), torch.full((6,), 0.5), atol=0.02)


def test_behind_a_relu_the_mean_is_taken() -> None:
    made_block, x = block(), (torch.randn(4, 6, 16, 16) - 1).relu()
    assert bool((x.flatten(2).median(2).values == 0).all())
    settle_cut(made_block, x, trained=True)
    found = shares(made_block, x)
    assert bool((found > 0.05).all() and (found < 0.5).all())
    theta = made_block.threshold.bounds(x).theta
    assert torch.allclose(theta, x.mean((0, 2, 3)), rtol=1e-5)


def test_a_threshold_that_is_not_learnt_moves_only_where_it_says_nothing() -> None:
    made_block, x = block("xnor"), torch.randn(4, 6, 16, 16)
    x[:, 0] += 50
    x[:, 1] = (x[:, 1] - 1).relu()
    settle_cut(made_block, x, trained=True)
    theta = made_block.threshold.bounds(x).theta
    assert float(theta[0]) == pytest.approx(50, abs=0.2)
    assert float(theta[1]) == pytest.approx(float(x[:, 1].mean()), rel=1e-5)
    assert not bool(theta[2:].any())


def test_gains_are_powers_of_two_that_bring_deviations_to_one() -> None:
    made_block = block()
    x = torch.randn(4, 6, 16, 16) * torch.tensor([1, 2, 3, 100, 1e-3, 0]).view(1, 6, 1, 1) * 40
    settle_cut(made_block, x, trained=True)
    gain = made_block.threshold.gain
    assert bool((gain.log2() == gain.log2().round()).all())
    near = (gain * x.abs().mean((0, 2, 3)))[2:4]
    assert bool((near > 0.05).all() and (near < 20).all())
    # A silent channel may not shout: gains stay within a factor of that of the whole.
    assert float(gain.max() / gain.min()) <= 2.0**5
    settle_cut(made_block, torch.zeros(1, 6, 4, 4), trained=True)
    assert bool((made_block.threshold.gain == 1).all())


def test_numbers_of_a_channel_are_picked_evenly() -> None:
    x = torch.arange(2 * 3 * 50).float().view(2, 3, 50)
    assert torch.equal(by_channel(x, 1), x.movedim(1, 0).flatten(1))
    assert by_channel(x, 1, 30).shape == (3, 25)
    assert torch.equal(by_channel(x.mT, -1), by_channel(x, 1))


# ---- Least squares ------------------------------------------------------------------------------


def test_least_squares_are_those_of_numpy() -> None:
    torch.manual_seed(0)
    u, c = torch.randn(5, 200), torch.randn(5, 200)
    t = 1.5 * u + 0.4 * c + 2 + 0.3 * torch.randn(5, 200)
    found = regress(u, t, c, free=True)
    for row in range(5):
        columns = np.stack([u[row].numpy(), np.ones(200), c[row].numpy()], 1).astype(np.float64)
        wanted = np.linalg.lstsq(columns, t[row].double().numpy(), rcond=None)[0]
        got = [float(part[row]) for part in (found.gain, found.shift, found.shortcut)]
        assert np.allclose(got, wanted, atol=1e-6)


def test_a_shortcut_is_at_most_itself_and_never_turned() -> None:
    torch.manual_seed(0)
    u, c = torch.randn(2, 400), torch.randn(2, 400)
    t = u + torch.tensor([[3.0], [-2.0]]) * c
    assert regress(u, t, c, free=True).shortcut.tolist() == [1.0, 0.0]
    assert regress(u, t, c, free=False).shortcut.tolist() == [1.0, 1.0]
    constant = regress(torch.ones(2, 400), t, torch.ones(2, 400), free=True)
    assert all(bool(torch.isfinite(part).all()) for part in constant)


@pytest.mark.parametrize("norm", ["affine", "batch"])
@pytest.mark.parametrize("method", ["reactnet", "bidense", "xnor", "irnet", "bireal"])
def test_a_block_gives_what_least_squares_say(method: str, norm: str) -> None:
    layer_block = block(method, norm=norm, learn_shortcut=METHODS[method].shortcut != "none")
    torch.manual_seed(1)
    x = torch.randn(4, 6, 12, 12)
    settle_cut(layer_block, x, trained=True)
    with torch.no_grad():
        scaled, c = layer_block.parts(x)
        target = -3 * scaled + 5
        target = target if c is None else target + 0.25 * c
        wanted = by_channel(target, 1)
        explained = fit(layer_block, x, Wanted(wanted, wanted))
        assert explained > 0.99999
        assert torch.allclose(layer_block(x), target, atol=1e-2, rtol=1e-3)


def test_sums_that_explain_nothing_are_not_silenced() -> None:
    layer_block, x = block(norm="affine", shortcut=False), torch.randn(4, 6, 12, 12)
    torch.manual_seed(3)
    target = by_channel(torch.randn(4, 4, 12, 12), 1)
    fit(layer_block, x, Wanted(target, target))
    y = by_channel(layer_block(x), 1)
    ratio = y.std(1) / target.std(1)
    assert bool((ratio > 0.9 * LEAST).all() and (ratio < 2 * LEAST).all())


# ---- Whole models -------------------------------------------------------------------------------


def start(net: nn.Module, x: Tensor, method: str) -> float:
    """The squared error of a settled student, in variances of its float model."""
    policy = BlockPolicy(method, min_channels=16)
    student = insert_blocks(prepare_binary(net, x, policy))
    settle(student, [x])
    with torch.no_grad():
        y, wanted = student(x), net(x)
        return float((y - wanted).square().mean() / wanted.var())


@pytest.mark.parametrize("method", ["reactnet", "bidense", "bidiffsr"])
def test_deep_nets_without_norms_start_near_their_float_model(method: str) -> None:
    torch.manual_seed(0)
    net = MODELS["edsr"].build(num_feat=32, num_block=12, upscale=2).eval()
    assert start(net, torch.rand(2, 3, 12, 12), method) < 1


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="../shared/data/weights is not there")
@pytest.mark.parametrize(
    "method",
    ["reactnet", *(pytest.param(m, marks=pytest.mark.slow) for m in ("bidense", "bidiffsr"))],
)
def test_trained_nets_start_near_themselves(method: str) -> None:
    torch.manual_seed(0)
    smooth = nn.functional.interpolate(torch.rand(2, 3, 6, 6), (24, 24), mode="bicubic").clamp(0, 1)
    rlfn = load_model(WEIGHTS / "rlfn" / "rlfn_x2.pth").model  # features of 0 to 255, no norm
    assert start(rlfn, 255 * smooth, method) < 0.5
    resnet = load_model(WEIGHTS / "resnet_cifar10" / "resnet20-12fca82f.th").model
    assert start(resnet, smooth, method) < 2


def test_batches_are_joined_and_broken_ones_refused() -> None:
    x = torch.zeros(2, 3)
    args, kwargs = joined([((x,), {"t": x[:, 0]}), ((x,), {"t": x[:, 0]})])
    assert args[0].shape == (4, 3) and kwargs["t"].shape == (4,)
    apart = joined([((x,), {}), ((torch.zeros(2, 4),), {})])
    assert apart[0][0] is x
    with pytest.raises(DataError, match="at least one batch"):
        joined([])
    model = made("edsr")
    student = insert_blocks(prepare_binary(model.net, model.example, BlockPolicy("reactnet")))
    with pytest.raises(DataError, match=r"body.0.conv1 is given holds NaN"):
        settle(student, [as_inputs(torch.full((1, 3, 12, 12), float("nan")))])


def test_no_number_that_was_seen_lies_on_a_threshold() -> None:
    from bitcompress.blocks.cuts import _theta

    generator = torch.Generator().manual_seed(4)
    for count in (1, 2, 7, 100):
        seen = torch.randn(5, count, generator=generator)
        theta = _theta(seen)[:, None]
        median = seen.median(1, keepdim=True).values
        assert torch.equal(seen >= theta, seen >= median) or count < 3
        if count > 2:
            assert not (seen == theta).any()
