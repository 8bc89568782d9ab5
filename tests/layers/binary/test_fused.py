"""The kernels of training compute what the plain definition computes, forward and backward."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from bitcompress import native
from bitcompress.layers.binary import METHODS, BinaryBlock, BlockSpec, Clock, binary_block, stands
from bitcompress.layers.binary import fused as room

TOLERANCE = {False: 1e-5, True: 2e-2}
"""Of the largest number: float32 in another order; bfloat16 of gradients rounded elsewhere."""


class Case(NamedTuple):
    layer: nn.Module
    norm: bool
    stage: str = "both"


CASES = {
    "same": Case(nn.Conv2d(16, 16, 3, padding=1), False),
    "normed": Case(nn.Conv2d(6, 13, 3, padding=1, stride=2, bias=False), True),
    "moved": Case(nn.Conv2d(8, 8, 1), True),
    "real": Case(nn.Conv2d(16, 20, 3, dilation=2), True, "activations"),
    "grouped": Case(nn.Conv2d(8, 8, 3, padding=1, groups=2), False),
}


class Run(NamedTuple):
    y: Tensor
    x: Tensor
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]


def block_of(method: str, case: Case, clock: Clock) -> BinaryBlock:
    groups = 3 if METHODS[method].timed else 1
    spec = BlockSpec(method, groups)
    reason = stands(case.layer, spec)
    if reason:
        pytest.skip(reason)
    assert isinstance(case.layer, nn.Conv2d)
    norm = nn.BatchNorm2d(case.layer.out_channels) if case.norm else None
    act = None
    if METHODS[method].activation != "none":
        act = nn.PReLU(case.layer.out_channels)
    block = binary_block(case.layer, spec, clock=clock, norm=norm, activation=act)
    with torch.no_grad():
        for p in block.parameters():
            if p.dim() < 3:
                p.add_(0.1 * torch.randn_like(p))
    block.stage = case.stage
    return block.train()


def ran(block: BinaryBlock, clock: Clock, x: Tensor, low: bool) -> Run:
    block = copy.deepcopy(block)
    block.clock = clock
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        y = block(x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    grads = {n: p.grad for n, p in block.named_parameters()}
    assert x.grad is not None
    return Run(
        y.detach(), x.grad, {n: g for n, g in grads.items() if g is not None},
        {n: b.float() for n, b in block.named_buffers()},
    )  # fmt: skip


def near(got: Tensor, wanted: Tensor, low: bool) -> bool:
    return bool((got - wanted).abs().max() <= TOLERANCE[low] * (wanted.abs().max() + 1e-2))


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", [name for name in METHODS if name != "bidense-tokens"])
def test_kernels_are_the_definition(
    method: str, name: str, low: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native.kernels() is None:
        pytest.skip(native.why_not())
    clock, x = Clock(3, 30), torch.randn(4, CASES[name].layer.weight.shape[1], 9, 8)
    if name == "grouped":
        x = torch.randn(4, 8, 9, 8)
    block = block_of(method, CASES[name], clock)
    clock.set(torch.tensor([0, 10, 20, 29]))
    x = x.contiguous(memory_format=torch.channels_last)
    got = ran(block, clock, x, low)
    monkeypatch.setattr(native, "_load", lambda: (None, "switched off by the test"))
    wanted = ran(block, clock, x, low)
    assert got.y.is_contiguous(memory_format=torch.channels_last)
    assert near(got.y, wanted.y, False), "sums are exact in bfloat16, too"
    assert near(got.x, wanted.x, low)
    for key, value in got.params.items():
        assert near(value, wanted.params[key], low), key
    for key, value in wanted.params.items():
        assert key in got.params or not value.abs().max() > 1e-3, key
    for key, value in got.buffers.items():
        assert near(value, wanted.buffers[key], False), key


def test_what_the_kernels_do_not_take_goes_another_way() -> None:
    last = torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    assert room.takes(last) == (native.kernels() is not None)
    assert not room.takes(last.contiguous())
    assert not room.takes(last.double()) and not room.takes(last[:0]) and not room.takes(last[0])
