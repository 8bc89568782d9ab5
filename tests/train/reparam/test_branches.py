"""Branches of a kernel: they sum to it, change nothing at first, and merge without a trace."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitcompress.layers.binary import BlockSpec, binary_block
from bitcompress.train.reparam import branch, merge
from bitcompress.train.reparam.branches import Branches, cosines


def stirred(layer: nn.Module) -> nn.Module:
    """The same with all scales away from where they begin."""
    with torch.no_grad():
        branches = layer.parametrizations.weight[0]
        branches.scales.uniform_(-1, 1)
        branches.mixing.normal_()
    return layer


@pytest.fixture
def conv() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, 3, stride=2, padding=1)


def test_nothing_changes_at_first(conv: nn.Conv2d) -> None:
    before = conv.weight.detach().clone()
    assert branch(conv)
    assert torch.equal(conv.weight, before)


def test_the_kernel_is_the_sum_of_convolutions_on_their_own(conv: nn.Conv2d) -> None:
    branch(conv)
    stirred(conv).double()
    branches, kernel = conv.parametrizations.weight[0], conv.parametrizations.weight.original
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)

    def run(x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
        return functional.conv2d(x, weight, None, 2, 1, groups=groups)

    unit = torch.eye(4, dtype=torch.float64).view(4, 4, 1, 1)
    mixed = functional.conv2d(x, unit + branches.mixing.view(4, 4, 1, 1))
    deep = run(x, branches.deep, groups=4)
    each = [
        run(x, kernel),
        # The average of a window, borders counted, after a convolution of single pixels.
        functional.avg_pool2d(functional.conv2d(x, branches.average), 3, 2, 1),
        torch.cat([
            run(functional.conv2d(x, branches.frequency[o : o + 1]), branches.cosines[o : o + 1])
            for o in range(6)
        ], 1),
        run(mixed, branches.sequence),
        run(x, branches.window),
        functional.conv2d(deep, branches.point.reshape(6, -1, 1, 1)),
    ]  # fmt: skip
    want = sum(s.view(1, -1, 1, 1) * y for s, y in zip(branches.scales, each, strict=True))
    assert torch.allclose(conv(x), want + conv.bias.view(1, -1, 1, 1), rtol=1e-10, atol=1e-12)


def test_cosines_by_hand() -> None:
    found = cosines(4, 3, 3)
    first, second = (
        [math.cos(math.pi * (h + 0.5) / 3) for h in range(3)],
        [math.cos(math.pi * (h + 0.5) * 2 / 3) for h in range(3)],
    )
    for c, line in enumerate((first, second)):
        assert found[c, 0, :, 1].tolist() == pytest.approx(line, abs=1e-6)
        assert found[c + 2, 0, 1].tolist() == pytest.approx(line, abs=1e-6)


def test_every_scale_hears_the_loss_at_the_start(conv: nn.Conv2d) -> None:
    branch(conv)
    conv(torch.randn(2, 4, 8, 8)).square().sum().backward()
    scales = conv.parametrizations.weight[0].scales
    assert (scales.grad != 0).all()


@pytest.mark.parametrize("binary", [False, True])
def test_merging_keeps_names_shapes_and_bits(conv: nn.Conv2d, binary: bool) -> None:
    net = nn.Sequential(binary_block(conv, BlockSpec("reactnet")) if binary else conv)
    layer = net[0].core if binary else net[0]
    shapes = {name: t.shape for name, t in net.state_dict().items()}
    types = [type(m) for m in net.modules()]
    assert branch(layer)
    stirred(layer)
    x = torch.randn(3, 4, 8, 8)
    want = net.eval()(x)
    merge(net)
    assert torch.equal(net(x), want)
    assert {name: t.shape for name, t in net.state_dict().items()} == shapes
    assert [type(m) for m in net.modules()] == types
    assert isinstance(layer.weight, nn.Parameter)


def test_a_binary_kernel_is_the_sign_of_the_sum(conv: nn.Conv2d) -> None:
    block = binary_block(conv, BlockSpec("bireal"))
    branch(block.core)
    stirred(block.core)
    x = torch.randn(2, 4, 8, 8)
    sums = block.sums(x)
    signs = torch.where(block.core.weight >= 0, 1.0, -1.0)
    want = functional.conv2d(torch.where(x >= 0, 1.0, -1.0), signs, None, 2, 1)
    assert torch.equal(sums, want)
    block(x).square().sum().backward()
    assert block.core.parametrizations.weight[0].sequence.grad.abs().sum() > 0
    merge(block)
    assert torch.equal(block.sums(x), sums)


def test_what_has_no_window_is_left_alone() -> None:
    for layer in (nn.Conv2d(3, 3, 1), nn.Linear(3, 3), nn.ConvTranspose2d(3, 3, 3), nn.ReLU()):
        assert not branch(layer)
        assert not any(isinstance(m, Branches) for m in layer.modules())
