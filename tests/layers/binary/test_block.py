"""The law of binary blocks: trained in eval and packed give the same bits; sums are exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitcompress.layers.binary import METHODS, BinaryBlock, BlockSpec, Clock, binary_block, stands

CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "same": (nn.Conv2d(40, 40, 3, padding=1), (2, 40, 7, 6)),
    "wider": (nn.Conv2d(33, 70, 3, padding=1, stride=2), (2, 33, 7, 6)),
    "line": (nn.Conv1d(8, 8, 3, padding=2, dilation=2), (2, 8, 9)),
    "up": (nn.ConvTranspose2d(8, 12, 4, 2, 1), (2, 8, 5, 4)),
    "tokens": (nn.Linear(40, 30), (2, 5, 40)),
}


def exercised(block: BinaryBlock, x: Tensor) -> BinaryBlock:
    """A block after a few steps that moved all its parameters."""
    optimizer = torch.optim.SGD([p for p in block.parameters() if p.requires_grad], lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        block.train()(x).square().mean().backward()
        optimizer.step()
    return block.eval()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", [name for name in METHODS if name != "bidense-tokens"])
def test_packed_is_trained_in_eval(method: str, case: str, arithmetic: str) -> None:
    layer, shape = CASES[case]
    spec, x = BlockSpec(method), torch.randn(shape)
    if stands(layer, spec):
        pytest.skip(stands(layer, spec))
    block = exercised(binary_block(layer, spec), x)
    with torch.no_grad():
        wanted = block(x)
        got = block.pack()(x)
    assert wanted.shape == layer(x).shape
    assert torch.equal(wanted, got)
    assert torch.equal(block(x), got), "and so it is with gradients"
    assert torch.equal(block.bits(x), block.pack().bits(x))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", [name for name in METHODS if name != "bidense-tokens"])
def test_its_output_may_be_changed_in_place(method: str, case: str, train: bool) -> None:
    """As models do: `out += x`, ReLU6(inplace=True)."""
    layer, shape = CASES[case]
    if stands(layer, BlockSpec(method)):
        pytest.skip(stands(layer, BlockSpec(method)))
    block, x = binary_block(layer, BlockSpec(method)).train(train), torch.randn(shape)
    if x.dim() == 4:  # the order of the fused passes
        x = x.to(memory_format=torch.channels_last)
    grads = []
    for change in (lambda y: (y + 1).clamp(-2, 2), lambda y: y.add_(1).clamp_(-2, 2)):
        block.zero_grad()
        given = x.clone().requires_grad_()
        change(block(given)).square().sum().backward()
        grads.append([given.grad, *(p.grad for p in block.parameters() if p.requires_grad)])
    for apart, inside in zip(*grads, strict=True):
        assert apart is inside is None or torch.allclose(apart, inside, rtol=1e-4, atol=1e-5)


def test_mixed_timesteps_are_those_of_each_sample() -> None:
    clock = Clock(5, 2000)
    block = binary_block(nn.Conv2d(16, 16, 3, padding=1), BlockSpec("bidiffsr", 5), clock=clock)
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    block.eval()
    packed, x, t = block.pack(), torch.randn(3, 16, 5, 5), torch.tensor([0, 801, 1999])
    for run in (block, packed):
        clock.set(t)
        whole = run(x)
        for i in range(3):
            clock.set(t[i])
            assert torch.equal(run(x[i : i + 1])[0], whole[i])


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_eval_and_twin_give_the_same_order_in_memory(order: torch.memory_format) -> None:
    """What follows, an enlargement say, may round by it."""
    block = binary_block(nn.Conv2d(32, 16, 3, padding=1), BlockSpec("bidense")).eval()
    block.to(memory_format=torch.channels_last)  # as training leaves it
    x = torch.randn(2, 32, 6, 7).contiguous(memory_format=order)
    with torch.no_grad():
        assert block(x).stride() == block.pack()(x).stride()
