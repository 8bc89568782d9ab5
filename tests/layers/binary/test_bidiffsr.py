"""The block of BI-DiffSR as its paper defines it: values, gradients, groups, shapes of its uses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitcompress.layers.binary import BinaryBlock, BlockSpec, Clock, binary_block
from bitcompress.models.reshape import CPDown, CPUp, CSFusion
from bitcompress.tasks.bidiffsr import block_factory


def biconv(channels: int, kernel: int = 3, groups: int = 1) -> tuple[BinaryBlock, Clock]:
    clock = Clock(groups, 2000)
    spec = BlockSpec("bidiffsr", groups=groups, start="scratch")
    plain = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
    return binary_block(plain, spec, clock=clock), clock


def by_hand(block: BinaryBlock, x: Tensor, group: int = 0) -> Tensor:
    """Section 3 of the paper as plain lines, in double."""
    w = block.core.weight.detach().double()
    tables = {name: p.detach().double() for name, p in block.named_parameters()}
    bias = tables["threshold.bias"][group]
    before, slope, after = (step.table[group].detach().double() for step in block.tail(None)[:3])
    s = torch.where(x.double() + bias.view(-1, 1, 1) >= 0, 1.0, -1.0)
    signs = torch.where(w >= 0, 1.0, -1.0)
    q = functional.conv2d(s, signs, padding=w.shape[-1] // 2) * w.abs().mean((1, 2, 3)).view(
        -1, 1, 1
    )
    z = q + before.view(-1, 1, 1)
    u = torch.where(z > 0, z, slope.view(-1, 1, 1) * z) + after.view(-1, 1, 1)
    return u + x.double()


@pytest.mark.parametrize("kernel", [1, 3])
def test_it_is_the_formula_of_the_paper(kernel: int) -> None:
    torch.manual_seed(0)
    block, clock = biconv(6, kernel, groups=5)
    with torch.no_grad():
        for name, p in block.named_parameters():
            if p.requires_grad and not name.startswith("core"):
                p.add_(0.2 * torch.randn_like(p))
    x = torch.randn(5, 6, 7, 5)
    x[:, :, ::2] = 0.0  # sums of zero and bias decide
    clock.set(torch.tensor([0, 399, 400, 1200, 1999]))
    with torch.no_grad():
        y = block.eval()(x)
    for n, group in enumerate((0, 0, 1, 3, 4)):
        torch.testing.assert_close(y[n : n + 1].double(), by_hand(block, x[n : n + 1], group))


def test_it_begins_as_published() -> None:
    block, _ = biconv(8, groups=5)
    kinds = [step.kind for step in block.tail(None)]
    before, slope, after = (step.table for step in block.tail(None)[:3])
    assert kinds[-1] == "shortcut" and before.shape == slope.shape == after.shape == (5, 8)
    assert not before.any() and not after.any() and bool((slope == 0.25).all())
    assert not block.threshold.bias.any()
    assert float(block.core.weight.detach().abs().max()) <= 1 / 72**0.5


def test_sums_have_the_parity_of_their_taps_and_zero_is_plus_one() -> None:
    block, _ = biconv(5)
    with torch.no_grad():
        block.core.weight[0] = 0.0
    x = torch.relu(torch.randn(2, 5, 6, 6))  # exact zeros
    sums = block.sums(x)
    taps = functional.conv2d(torch.ones(1, 1, 6, 6), torch.ones(1, 1, 3, 3), padding=1)[0, 0]
    assert torch.equal(sums, sums.round())
    assert bool(((sums - 5 * taps) % 2 == 0).all()) and bool((sums.abs() <= 5 * taps).all())
    assert torch.equal(sums[:, 0], (5 * taps).expand(2, 6, 6))  # all bits and weights are +1
    assert torch.equal(block.sums(-0.0 * x), block.sums(torch.zeros_like(x)))


def test_gradients_of_signs_and_weights() -> None:
    block, _ = biconv(1, 1)
    points = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
    x = points.view(-1, 1, 1, 1).clone().requires_grad_()
    with torch.no_grad():
        block.core.weight.fill_(0.5)
    scaled, _ = block.train().parts(x)  # 0.5 Sign(x), before the shortcut
    scaled.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.flatten() / 0.5, torch.tensor([0.0, 0, 1, 2, 1, 0, 0]))
    for weight, passes in ((0.7, 1.0), (-1.0, 1.0), (1.0, 1.0), (1.2, 0.0), (-1.2, 0.0)):
        block.zero_grad()
        with torch.no_grad():
            block.core.weight.fill_(weight)
        scaled, _ = block.parts(torch.ones(1, 1, 1, 1))
        (3 * scaled).sum().backward()
        assert float(block.core.weight.grad) == 3 * passes  # not multiplied by the scale


def test_only_the_row_of_the_group_learns() -> None:
    block, clock = biconv(4, groups=5)
    clock.set(torch.tensor([450]))
    block(torch.randn(1, 4, 5, 5)).sum().backward()
    for name, p in block.named_parameters():
        if p.requires_grad and p.shape == (5, 4):
            assert [bool(row.any()) for row in p.grad] == [False, True, False, False, False], name


@pytest.mark.parametrize("channels", [16, 64, 512])
def test_with_weights_of_zero_only_the_wiring_is_left(channels: int) -> None:
    clock = Clock(1, 2000)
    conv = block_factory(BlockSpec("bidiffsr", start="scratch"), clock)
    x, skip = torch.randn(1, channels, 4, 4), torch.randn(1, channels, 4, 4)
    down, up, fusion = CPDown(channels, conv), CPUp(channels, conv), CSFusion(channels, conv)
    half = channels // 2
    with torch.no_grad():
        for module in (down, up, fusion):
            for block in module.eval().modules():
                if isinstance(block, BinaryBlock):
                    block.core.weight.zero_()
        added = functional.pixel_unshuffle(x[:, :half] + x[:, half:], 2)
        assert torch.equal(down(x), added) and added.shape == (1, 2 * channels, 2, 2)
        doubled = functional.pixel_shuffle(torch.cat([x, x], 1), 2)
        assert torch.equal(up(x), doubled) and doubled.shape == (1, half, 8, 8)
        first = torch.cat([x[:, 1::2], skip[:, 0::2]], 1)
        second = torch.cat([x[:, 0::2], skip[:, 1::2]], 1)
        assert torch.equal(fusion(x, skip), first + second)
