"""RSign, TaR and DAB cut where their formulas say, sample by sample, and learn by them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import NotPackable, UsageError
from bitcompress.layers.binary import DAB, BlockSpec, RSign, TaR, binary_block
from bitcompress.layers.binary.gap import dab_gap
from bitcompress.quant.sign import derivative


def moved(layer: nn.Module, by: float = 0.5) -> nn.Module:
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(by * torch.randn_like(p))
    return layer


def test_rsign_and_tables_compare_raw_numbers() -> None:
    x = torch.randn(3, 4, 5, 5)
    layer = RSign(4)
    moved(layer)
    layer.gain.copy_(torch.tensor([0.5, 1, 2, 4]))
    s, scale = layer(x)
    v = x.double() * layer.gain.double().view(4, 1, 1) + layer.bias.double().view(4, 1, 1)
    assert scale is None and torch.equal(s, torch.where(v >= 0, 1.0, -1.0))
    table = TaR(4, 3)
    moved(table)
    index = torch.tensor([2, 0, 2])
    signs, _ = table(x, index)
    for n in range(3):
        wanted = x[n] + table.bias[index[n]].view(4, 1, 1) >= 0
        assert torch.equal(signs[n] > 0, wanted)
    with pytest.raises(UsageError, match="needs a clock"):
        table(x)


def test_only_rows_in_use_learn() -> None:
    table = TaR(4, 3)
    s, _ = table(0.3 * torch.randn(2, 4, 5, 5), torch.tensor([0, 2]))
    s.sum().backward()
    grad = table.bias.grad
    assert grad is not None and (grad[[0, 2]] != 0).all() and (grad[1] == 0).all()


@torch.no_grad()
def by_formula(layer: DAB, x: Tensor) -> tuple[Tensor, Tensor]:
    """beta and alpha of the published form in float64, one sample and channel at a time."""
    beta, alpha = torch.zeros(x.shape[:2]).double(), torch.zeros(x.shape[:2]).double()
    for n in range(len(x)):
        for c in range(x.shape[1]):
            z = x[n, c].double()
            beta[n, c] = layer.slope[0, c].double() * z.mean() + layer.bias[0, c].double()
            apart = float((z - beta[n, c]).abs().mean())
            alpha[n, c] = math.exp(float(layer.exponent[0, c]) * (apart - 1))
    return beta, alpha


def test_dab_is_its_formula() -> None:
    layer, x = DAB(6, mode="channel"), torch.randn(3, 6, 7, 5) * 2 + 0.3
    moved(layer)
    beta, alpha = by_formula(layer, x)
    cut = layer.eval().bounds(x)
    assert cut.scale is not None
    assert torch.allclose(cut.theta.double(), beta, atol=1e-6)
    assert torch.allclose(cut.scale.double(), alpha, rtol=1e-5)
    assert (cut.scale > 0).all()
    for train in (True, False):
        s, scale = layer.train(train)(x)
        assert torch.equal(s > 0, x >= beta.float()[..., None, None])
        assert scale is not None and torch.allclose(scale.double(), alpha, rtol=1e-5)


@pytest.mark.parametrize("mode", ["tensor", "group"])
def test_shared_scales_take_the_mean_of_what_shares_them(mode: str) -> None:
    layer, x = DAB(40, mode=mode).eval(), torch.randn(2, 40, 4, 4)
    moved(layer, 0.2)
    apart = (x.double() - layer.bounds(x).theta.double()[..., None, None]).abs().mean((2, 3))
    parts = [apart] if mode == "tensor" else [apart[:, :32], apart[:, 32:]]
    shared = torch.stack([part.mean(1) for part in parts], 1)
    wanted = torch.exp(layer.exponent[0].double() * (shared - 1))
    scale = layer.bounds(x).scale
    assert scale is not None and torch.allclose(scale.double(), wanted, rtol=1e-5)


def test_dab_starts_as_sign_and_follows_a_shift() -> None:
    x = torch.randn(2, 5, 6, 6)
    layer = DAB(5, mode="channel")
    with torch.no_grad():
        layer.slope.zero_()
        layer.exponent.zero_()
    s, scale = layer(x)
    assert torch.equal(s, torch.where(x >= 0, 1.0, -1.0))
    assert scale is not None and (scale == 1).all()
    with torch.no_grad():
        layer.slope.fill_(1.0)
    far = layer.eval().bounds(x + 3.0).theta - layer.bounds(x).theta
    assert torch.allclose(far, torch.full_like(far, 3.0), atol=1e-5)


def test_gradients_of_dab_hold_statistics_fixed() -> None:
    layer, x = DAB(3, mode="channel"), torch.randn(2, 3, 5, 5, requires_grad=True)
    moved(layer)
    g = torch.randn(2, 3, 5, 5)
    s, scale = layer(x)
    assert scale is not None
    (s * scale[..., None, None] * g).sum().backward()
    beta, alpha = by_formula(layer, x.detach())
    v = x.detach() - beta.float()[..., None, None]
    slope = alpha.float()[..., None, None] * derivative("approx", v)
    assert x.grad is not None and torch.allclose(x.grad, g * slope, atol=1e-5)
    assert layer.bias.grad is not None and layer.exponent.grad is not None
    assert torch.allclose(layer.bias.grad[0], -(g * slope).sum((0, 2, 3)), atol=1e-4)
    apart = v.abs().mean((2, 3))
    wanted = ((g * s.detach()).sum((2, 3)) * alpha.float() * (apart - 1)).sum(0)
    assert torch.allclose(layer.exponent.grad[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["tensor", "group", "none"])
def test_samples_do_not_see_each_other(mode: str) -> None:
    block = binary_block(nn.Conv2d(40, 8, 3, padding=1), BlockSpec("bidense", dab_scale=mode))  # type: ignore[arg-type]
    moved(block, 0.1)
    x = torch.randn(3, 40, 6, 6)
    with torch.no_grad():
        whole = block.eval()(x)
        for n in range(3):
            assert torch.equal(block(x[n : n + 1])[0], whole[n])
            assert torch.equal(block(x[n]), whole[n]), "a picture without a batch"


def test_the_published_scale_packs_only_where_it_leaves_the_sum() -> None:
    spec = BlockSpec("bidense", dab_scale="channel")
    with pytest.raises(NotPackable, match="inside the sum"):
        binary_block(nn.Conv2d(8, 8, 3, padding=1), spec).pack()
    block = binary_block(nn.Conv2d(8, 16, 3, padding=1, groups=8), spec)
    moved(block, 0.2)
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        assert torch.equal(block.eval()(x), block.pack()(x))


def test_the_gap_orders_the_forms() -> None:
    block = binary_block(nn.Conv2d(64, 32, 3, padding=1), BlockSpec("bidense", dab_scale="channel"))
    x = torch.randn(2, 64, 8, 8) * torch.linspace(0.2, 3, 64).view(64, 1, 1)
    assert dab_gap(block, x).tensor < 0.01, "at its start DAB scales next to nothing"
    threshold = block.threshold
    assert isinstance(threshold, DAB)
    with torch.no_grad():
        threshold.exponent.fill_(1.0)
    gap = dab_gap(block, x)
    assert 0 < gap.group < gap.tensor <= gap.none + 1e-6 and gap.spread > 0.3
    with pytest.raises(UsageError, match="published scale"):
        dab_gap(binary_block(nn.Conv2d(8, 8, 3), BlockSpec("bidense")), x)


def test_no_other_scale() -> None:
    with pytest.raises(UsageError, match="scale of DAB"):
        DAB(4, mode="pixel")
