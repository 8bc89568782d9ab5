"""Any block on any layer: trained in eval, packed, and stored and built again are equal."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bitcompress.layers.binary import METHODS, BlockSpec, Clock, PackedBlock, binary_block, stands

quick = settings(deadline=None, max_examples=100, derandomize=True)
NAMES = [name for name in METHODS if name != "bidense-tokens"]


def pair(draw: st.DrawFn, low: int, high: int) -> tuple[int, int]:
    return draw(st.integers(low, high)), draw(st.integers(low, high))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    groups = draw(st.sampled_from([1, 1, 1, 2, 4]))
    cin, cout = (groups * draw(st.sampled_from([1, 2, 5, 9, 33])) for _ in range(2))
    cout = cin if draw(st.booleans()) else cout
    bias, n = draw(st.booleans()), draw(st.integers(1, 3))
    if draw(st.integers(0, 3)) == 0:
        step, times = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        layer: nn.Module = nn.ConvTranspose2d(
            cin, cout, step * times, step, draw(st.integers(0, step * times // 2)),
            groups=groups, bias=bias,
        )  # fmt: skip
        return layer, torch.randn(n, cin, *pair(draw, 3, 6))
    kernel, dilation = pair(draw, 1, 4), pair(draw, 1, 2)
    stride, padding = pair(draw, 1, 3), pair(draw, 0, 2)
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    same = draw(st.booleans())
    where: Any = "same" if same else padding
    layer = nn.Conv2d(
        cin, cout, kernel, (1, 1) if same else stride, where, dilation, groups, bias, mode
    )
    reach = [dilation[i] * (kernel[i] - 1) + 1 + draw(st.integers(0, 4)) for i in range(2)]
    return layer, torch.randn(n, cin, *(max(size, 5) for size in reach))


@st.composite
def cases(draw: st.DrawFn) -> tuple[nn.Module, Tensor, BlockSpec, Tensor]:
    if draw(st.integers(0, 5)) == 0:
        sizes = pair(draw, 1, 40)
        lead = draw(st.sampled_from([(3,), (2, 5), (2, 3, 4)]))
        layer: nn.Module = nn.Linear(*sizes, bias=draw(st.booleans()))
        x = torch.randn(*lead, sizes[0])
    else:
        layer, x = draw(convolutions())
    method = draw(st.sampled_from(NAMES))
    groups = draw(st.sampled_from([1, 1, 3])) if METHODS[method].timed else 1
    spec = BlockSpec(
        method, groups, draw(st.sampled_from(["none", "tensor", "group"])),
        draw(st.sampled_from([None, "batch", "affine", "none"])), draw(st.booleans()),
        draw(st.sampled_from([0, 0, 1, -1])), start=draw(st.sampled_from(["trained", "scratch"])),
        timed=draw(st.sampled_from(["both", "thresholds", "activations"])),
    )  # fmt: skip
    if stands(layer, spec):
        spec = BlockSpec("reactnet")
    return layer, x, spec, torch.randint(0, 100, (len(x),))


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@quick
@given(cases())
@torch.no_grad()
def test_any_block_packs_to_its_own_bits(
    case: tuple[nn.Module, Tensor, BlockSpec, Tensor],
) -> None:
    layer, x, spec, t = case
    if stands(layer, spec):
        return
    clock = Clock(spec.groups, 100)
    clock.set(t)
    block = binary_block(layer, spec, clock=clock).eval()
    for name, p in [*block.named_parameters(), *block.named_buffers()]:
        if name.endswith("threshold.gain"):
            p.copy_(torch.exp2(torch.randint(-2, 3, p.shape).float()))
        elif p.is_floating_point() and "running_var" not in name:
            p.add_(0.3 * torch.randn_like(p))
    y = block(x)
    packed = block.pack()
    assert y.shape == layer(x).shape and torch.isfinite(y).all()
    assert torch.equal(y, packed(x))
    stored = json.loads(json.dumps(packed.settings())), packed.state_dict()
    assert torch.equal(y, PackedBlock.build(*stored, clock)(x))
    if x.dim() == 4:
        assert torch.equal(y, packed(x.to(memory_format=torch.channels_last)))
        alone = block.sums(x)
        largest = block.core.weight[0].numel()
        assert alone.dtype == torch.int32 and int(alone.abs().max()) <= largest
