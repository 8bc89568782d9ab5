"""The product of a block is exact, and its gradient is the published one of the binary weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.layers.binary import BlockSpec, binary_block
from bitcompress.layers.binary.core import BinaryCore, exact_parts, parted_sums
from bitcompress.layers.geometry import ConvGeometry
from bitcompress.packed.binary import Look
from bitcompress.quant.sign import sign


def core(rule: str = "magnitude", groups: int = 1) -> BinaryCore:
    geometry = ConvGeometry((2, 1), (1, 1), groups=groups)
    return BinaryCore(torch.randn(6, 8 // groups, 3, 3), rule, geometry, 0)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_are_those_of_the_binary_weight(train: bool, groups: int) -> None:
    layer = core(groups=groups).train(train)
    s = sign(torch.randn(2, 8, 6, 5)).requires_grad_()
    gain, shift = torch.randn(6, requires_grad=True), torch.randn(6, requires_grad=True)
    g = torch.randn(2, 6, 3, 5)
    (layer(s, gain, shift) * g).sum().backward()
    got = [s.grad, layer.weight.grad, gain.grad, shift.grad]

    w = layer.weight.detach()
    scale = w.abs().mean((1, 2, 3), keepdim=True)
    wb = (scale * torch.where(w >= 0, 1.0, -1.0)).requires_grad_()
    same = [t.detach().clone().requires_grad_() for t in (s, gain, shift)]
    y = F.conv2d(same[0], wb, None, (2, 1), 1, 1, groups) * same[1].view(6, 1, 1)
    y = y + same[2].view(6, 1, 1)
    (y * g).sum().backward()
    assert wb.grad is not None
    wanted = [same[0].grad, wb.grad * (w.abs() <= 1), same[1].grad, same[2].grad]
    for a, b in zip(got, wanted, strict=True):
        assert a is not None and b is not None and torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_filter_of_zeros_still_learns() -> None:
    layer = core()
    with torch.no_grad():
        layer.weight.zero_()
    layer(sign(torch.randn(2, 8, 6, 5))).sum().backward()
    assert layer.weight.grad is not None and float(layer.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("inputs", "kernel"),
    [(16, 3), (31, 3), (64, 3), (85, 3), (255, 1), (257, 1), (513, 1), (3, 13), (1, 17), (130, 5)],
)
def test_sums_by_bfloat16_are_exact(inputs: int, kernel: int) -> None:
    s = torch.ones(1, inputs, kernel + 1, kernel + 1)  # the largest sums there are
    s = torch.cat([s, sign(torch.randn_like(s)), -s])
    w = torch.cat(
        [torch.ones(1, inputs, kernel, kernel), sign(torch.randn(3, inputs, kernel, kernel))]
    )
    look = Look(padding=(kernel // 2, kernel // 2))
    exact = F.conv2d(s.double(), w.double(), None, 1, look.padding)
    assert torch.equal(parted_sums(s, w, look).double(), exact)
    assert sum(exact_parts(inputs, kernel**2)) in (inputs, 0)


@pytest.mark.parametrize("method", ["reactnet", "xnor", "bidense", "bidiffsr", "irnet"])
def test_autocast_trains_on_the_same_sums(method: str) -> None:
    layer = nn.Conv2d(80, 80, 3, padding=1, bias=False)
    block = binary_block(layer, BlockSpec(method)).train()
    x = torch.randn(2, 80, 6, 6)
    plain = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = block(x)
        (half.square().mean()).backward()
    assert half.dtype == torch.float32 and torch.allclose(half, plain, rtol=1e-4, atol=1e-4)
    for name, p in block.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and torch.isfinite(p.grad).all(), name


def stepped(block: nn.Module, x: Tensor) -> float:
    optimizer = torch.optim.SGD([p for p in block.parameters() if p.requires_grad], lr=0.02)
    target, losses = torch.randn_like(block(x)), []
    for _ in range(25):
        loss = (block(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[-1] / losses[0]


@pytest.mark.parametrize("stage", ["activations", "both"])
def test_both_stages_learn(stage: str) -> None:
    block = binary_block(nn.Conv2d(8, 8, 3, padding=1), BlockSpec("reactnet"))
    block.stage = stage
    assert stepped(block, torch.randn(4, 8, 5, 5)) < 0.97


def test_a_layer_that_runs_twice_learns_by_xnor() -> None:
    block = binary_block(nn.Conv2d(8, 8, 3, padding=1), BlockSpec("xnor"))
    block(block(torch.randn(2, 8, 5, 5))).sum().backward()
    w = block.core.weight
    assert w.grad is not None and torch.isfinite(w.grad).all()
    assert float(w.detach().mean(1).abs().max()) < 1e-6, "centred over its inputs"
    assert float(w.detach().abs().max()) <= 1


def test_gradients_keep_the_order_in_memory(arithmetic: str) -> None:
    block = binary_block(nn.Conv2d(8, 8, 3, padding=1), BlockSpec("reactnet"))
    orders = []
    block.threshold.register_full_backward_hook(lambda m, x, got: orders.append(got[0].stride()))
    x = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    y = block(x)
    y.backward(torch.randn(2, 8, 6, 6))
    assert orders == [y.stride()]
