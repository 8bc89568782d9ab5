"""Packed layers run straight give the bits of their operators; who watches sees the operators."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bitcompress import native
from bitcompress.layers import ConvGeometry, PackedConv2d, PackedLinear
from bitcompress.packed import layer as straight
from bitcompress.packed.stored import PackedTensor, pack

needs_native = pytest.mark.skipif(native.kernels() is None, reason="no native kernels")
quick = settings(deadline=None, max_examples=60, derandomize=True)


def packed_weight(shape: tuple[int, ...], bits: int, grids: int) -> PackedTensor:
    codes = torch.randint(0, 2**bits, shape, dtype=torch.uint8)
    return PackedTensor(
        pack(codes, bits), shape, bits, torch.rand(grids) * 0.1 + 0.01, -torch.rand(grids)
    )


def some_linear(k: int, n: int, bits: tuple[int, int], stretched: bool = True) -> PackedLinear:
    top = 2 ** bits[1] - 1
    return PackedLinear(
        packed_weight((n, k), bits[0], n), torch.randn(n), torch.tensor([4 / top]),
        torch.tensor([-2.0]), bits[1], torch.rand(k) + 0.5 if stretched else None,
        torch.randn(k) * 0.2 if stretched else None,
    )  # fmt: skip


def some_conv(geometry: ConvGeometry, shape: tuple[int, ...], bits: tuple[int, int],
              stretched: bool) -> PackedConv2d:  # fmt: skip
    top, channels = 2 ** bits[1] - 1, shape[1] * geometry.groups
    return PackedConv2d(
        packed_weight(shape, bits[0], shape[0] if stretched else 1), torch.randn(shape[0]),
        torch.tensor([4 / top]), torch.tensor([-2.0]), bits[1], geometry,
        torch.rand(channels) + 0.5 if stretched else None,
    )  # fmt: skip


class Watch(TorchDispatchMode):
    """Notes the operators of our domain."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "bitcompress":
            self.seen.append(func._opname)
        return func(*args, **(kwargs or {}))


def watched(module: Any, x: Tensor) -> Tensor:
    """What the operator gives, which is what whoever watches sees."""
    with Watch() as watch:
        y: Tensor = module(x)
    assert watch.seen == ["linear" if isinstance(module, PackedLinear) else "conv2d"]
    return y


@needs_native
@quick
@given(
    lead=st.lists(st.integers(1, 5), min_size=1, max_size=3), k=st.integers(1, 130),
    n=st.integers(1, 90), bits=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    stretched=st.booleans(), seed=st.integers(0, 9999),
)  # fmt: skip
def test_a_linear_run_straight_is_the_operator(
    level: str, lead: list[int], k: int, n: int, bits: tuple[int, int], stretched: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    module, x = some_linear(k, n, bits, stretched), torch.randn(*lead, k) * 2
    assert torch.equal(module(x), watched(module, x))
    turned = torch.randn(k, *lead).movedim(0, -1)
    assert torch.equal(module(turned), watched(module, turned))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[PackedConv2d, Tensor]:
    torch.manual_seed(draw(st.integers(0, 9999)))
    groups, each, filters = draw(st.sampled_from([(1, 7, 5), (1, 33, 20), (3, 5, 2), (20, 1, 1)]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 5), (5, 1)]))
    dilation = draw(st.integers(1, 2))
    geometry = ConvGeometry(
        (draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        (draw(st.integers(0, 2)), draw(st.integers(0, 2))), (dilation, dilation), groups,
    )  # fmt: skip
    size = [(k - 1) * dilation + draw(st.integers(1, 20)) for k in kernel]
    bits = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    conv = some_conv(geometry, (groups * filters, each, *kernel), bits, draw(st.booleans()))
    channels, images = groups * each, draw(st.integers(1, 2))
    order = draw(st.sampled_from(["first", "last", "slice", "cropped"]))
    x = torch.randn(images, *size, channels + 3) * 2
    if order == "first":
        return conv, x[..., 3:].permute(0, 3, 1, 2).contiguous()
    if order == "cropped":
        x = torch.randn(images, size[0], size[1] + 2, channels)[:, :, 1:-1]
        return conv, x.permute(0, 3, 1, 2)
    x = x[..., 3:] if order == "slice" else x[..., 3:].contiguous()
    return conv, x.permute(0, 3, 1, 2)


@needs_native
@quick
@given(case=convolutions(), threads=st.sampled_from([1, 3]))
def test_a_convolution_run_straight_is_the_operator(
    level: str, case: tuple[PackedConv2d, Tensor], threads: int
) -> None:
    module, x = case
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = module(x)
    finally:
        torch.set_num_threads(before)
    wanted = watched(module, x)
    assert torch.equal(y, wanted) and y.stride() == wanted.stride()


@needs_native
def test_numbers_near_a_tie_are_cut_as_the_division_says(level: str) -> None:
    """A multiplication by 1 / scale would round some of these to the other side."""
    torch.manual_seed(0)
    scale = torch.rand(1) * 0.1 + 0.01
    halves = (torch.arange(255).float() + 0.5).repeat(20) * scale
    steps = torch.linspace(-3, 3, halves.numel()).round().int()
    x = (halves.view(torch.int32) + steps).view(torch.float32).view(-1, 60)
    one = PackedTensor(pack(torch.eye(60, dtype=torch.uint8), 1), (60, 60), 1,
                       torch.ones(1), torch.zeros(1))  # fmt: skip
    module = PackedLinear(one, None, torch.ones(1), torch.zeros(1), 8)
    module.input_scale.copy_(scale)
    assert torch.equal(module(x), watched(module, x))


@needs_native
def test_changed_buffers_are_seen() -> None:
    module, x = some_linear(8, 4, (4, 4)), torch.randn(3, 8)
    before = module(x)
    assert module.bias is not None
    module.bias.add_(1)
    assert torch.allclose(module(x), before + 1, atol=1e-5)
    module.bias = torch.zeros(4)
    assert torch.equal(module(x), watched(module, x))
    other = some_linear(8, 4, (4, 4))
    module.load_state_dict(other.state_dict())
    assert torch.equal(module(x), other(x))


@needs_native
def test_copies_have_layers_of_their_own() -> None:
    module, x = some_linear(8, 4, (4, 4)), torch.randn(3, 8)
    y = module(x)
    twin = copy.deepcopy(module)
    twin.weight_scale.mul_(2)
    assert not torch.equal(twin(x), y) and torch.equal(module(x), y)


@needs_native
def test_whoever_watches_sees_the_operator() -> None:
    module, x = some_linear(8, 4, (4, 4)), torch.randn(3, 8)
    watched(module, x)
    exported = torch.export.export(module, (x,))
    assert "bitcompress.linear" in str(exported.graph)
    assert straight.native_layer(module, x.double(), module._weights) is None
    assert module(x.half()).dtype == torch.float16
    assert module(torch.empty(0, 8)).shape == (0, 4)


@needs_native
def test_sums_may_be_as_long_as_their_widths_allow(level: str) -> None:
    """At two bits a sum of 100 000 codes is far from int32; at eight it is not."""
    x = torch.rand(2, 100_000) * 4 - 2
    short = some_linear(100_000, 3, (2, 2), stretched=False)
    assert straight.native_layer(short, x, short._weights) is not None
    assert torch.equal(short(x), watched(short, x))
    wide = some_linear(100_000, 3, (8, 8), stretched=False)
    assert straight.native_layer(wide, x, wide._weights) is None
    assert torch.equal(wide(x), watched(wide, x))
