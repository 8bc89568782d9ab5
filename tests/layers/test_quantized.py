"""Layers on grids: off they are the float layer, on they equal their packed twins, both train."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bitcompress.layers import (
    QUANT_LAYERS,
    ConvGeometry,
    PackedConv2d,
    PackedLinear,
    PackedMatmul,
    QuantConv2d,
    QuantLinear,
    QuantMatmul,
    SplitLinear,
    Widths,
)
from bitcompress.quant import Bounds, UniformQuantizer

quick = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
some_bits = st.integers(1, 8)
# What torch says of padding="same" with an even kernel.
quiet = pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel:UserWarning")


def switch(layer: nn.Module, on: bool) -> None:
    for module in layer.modules():
        if isinstance(module, UniformQuantizer):
            module.enabled = on


def bound(quantizer: UniformQuantizer, x: Tensor) -> None:
    """Bounds a little inside the range, so that both ends clip."""
    low, high = float(x.detach().min()) * 0.9, float(x.detach().max()) * 0.9
    groups = quantizer.lower.numel()
    spread = torch.linspace(1.0, 0.8, groups)
    quantizer.set_bounds(Bounds(spread * low, spread * high + 0.01))


def on_linear(layer: nn.Linear, bits: tuple[int, int] = (3, 4), axis: int | None = 0
              ) -> QuantLinear:  # fmt: skip
    made = QuantLinear(layer.weight, layer.bias, Widths(*bits, axis))
    bound(made.weight_quantizer, layer.weight)
    return made


def on_conv(conv: nn.Conv2d, bits: tuple[int, int] = (3, 4), axis: int | None = 0) -> QuantConv2d:
    pairs = [conv.kernel_size, conv.stride, conv.padding, conv.dilation]
    kernel, stride, padding, dilation = (p if isinstance(p, str) else tuple(p) for p in pairs)
    geometry = ConvGeometry.of(
        kernel, stride, padding, dilation, conv.groups, conv.padding_mode  # type: ignore[arg-type]
    )  # fmt: skip
    made = QuantConv2d(conv.weight, conv.bias, geometry, Widths(*bits, axis))
    bound(made.weight_quantizer, conv.weight)
    return made


def close(packed: Tensor, simulated: Tensor, terms: float = 1.0) -> bool:
    simulated = simulated.detach()
    size = max(terms, float(simulated.abs().max()))
    return torch.allclose(packed, simulated, rtol=1e-5, atol=1e-5 * size)


# ---- Off: the float layer -----------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_linear_switched_off_is_the_float_layer(bias: bool) -> None:
    layer = nn.Linear(7, 5, bias)
    made = on_linear(layer)
    switch(made, False)
    for lead in ((), (3,), (2, 3, 4)):
        x = torch.randn(*lead, 7)
        assert torch.equal(made(x), layer(x))


CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2, "groups": 2},
    {"kernel_size": 1, "bias": False},
    {"kernel_size": 3, "padding": 1, "groups": 4},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 3)},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": (2, 4), "padding": "same", "dilation": (3, 1)},
    {"kernel_size": 2, "padding": "valid"},
]


@quiet
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("arguments", CONVOLUTIONS, ids=str)
def test_conv2d_switched_off_is_the_float_layer(arguments: dict[str, Any], mode: Any) -> None:
    conv = nn.Conv2d(4, 8, padding_mode=mode, **arguments)
    made = on_conv(conv)
    switch(made, False)
    for shape in ((2, 4, 9, 8), (4, 8, 11)):
        x = torch.randn(shape)
        assert torch.allclose(made(x), conv(x), atol=1e-6)


def test_matmul_switched_off_is_torch_matmul() -> None:
    made = QuantMatmul(4, 4, (3, 1))
    switch(made, False)
    a, b = torch.randn(2, 3, 4, 5), torch.randn(3, 5, 6)
    assert torch.equal(made(a, b), torch.matmul(a, b))


# ---- On: the packed twin ------------------------------------------------------------------------


@quick
@given(
    k=st.sampled_from([1, 3, 31, 32, 33, 64, 65]), n=st.integers(1, 9),
    bits=st.tuples(some_bits, some_bits), axis=st.sampled_from([0, None]), bias=st.booleans(),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_packed_linear_equals_the_layer_on_grids(
    arithmetic: str, k: int, n: int, bits: tuple[int, int], axis: int | None, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    made, x = on_linear(nn.Linear(k, n, bias), bits, axis), torch.randn(3, 2, k)
    bound(made.input_quantizer, x)
    packed = made.pack()
    assert isinstance(packed, PackedLinear)
    terms = float(x.abs().max()) * k**0.5
    assert close(packed(x), made(x), terms)
    assert packed.codes.numel() * 8 < n * k * bits[0] + 8 * 8


@quiet
@quick
@given(
    arguments=st.sampled_from(CONVOLUTIONS), channels=st.sampled_from([4, 12]),
    mode=st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]),
    bits=st.tuples(some_bits, some_bits), axis=st.sampled_from([0, None]), seed=st.integers(0, 999),
)  # fmt: skip
def test_packed_conv2d_equals_the_layer_on_grids(
    arithmetic: str, arguments: dict[str, Any], channels: int, mode: Any, bits: tuple[int, int],
    axis: int | None, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    made = on_conv(nn.Conv2d(channels, 8, padding_mode=mode, **arguments), bits, axis)
    x = torch.randn(2, channels, 8, 9) + 0.5
    bound(made.input_quantizer, x)
    packed = made.pack()
    assert isinstance(packed, PackedConv2d)
    assert close(packed(x), made(x), 4.0)
    assert close(packed(x[0]), made(x)[0], 4.0)


@pytest.mark.parametrize("channels", [1, 3, 31, 33])
def test_a_border_is_true_zeros_also_where_zero_is_no_level(channels: int, arithmetic: str) -> None:
    """Bounds far from 0: a padded code would stand for 5, a padded zero stands for 0."""
    conv = nn.Conv2d(channels, 4, 3, padding=2)
    made = on_conv(conv, (8, 8))
    x = torch.rand(1, channels, 5, 4) + 5
    made.input_quantizer.set_bounds(Bounds(torch.tensor([5.0]), torch.tensor([6.0])))
    rows = conv.weight.detach().flatten(1)
    made.weight_quantizer.set_bounds(Bounds(rows.amin(1), rows.amax(1)))
    wanted = nn.functional.conv2d(
        made.input_quantizer(x), made.weight_quantizer(conv.weight), conv.bias, padding=2
    )
    assert close(made.pack()(x), wanted)
    assert torch.allclose(wanted, conv(x), atol=0.2)


@pytest.mark.parametrize("heads", [(1, 1), (3, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("relative", [(False, False), (True, True), (True, False)])
def test_packed_matmul_equals_the_product_on_grids(
    heads: tuple[int, int], relative: tuple[bool, bool], arithmetic: str
) -> None:
    made = QuantMatmul(3, 5, heads, relative)
    for quantizer in (made.a_quantizer, made.b_quantizer):
        bound(quantizer, torch.tensor([-2.0, 2.5]))
    packed = made.pack()
    assert isinstance(packed, PackedMatmul)
    for length in (1, 7, 64, 100):
        a, b = torch.randn(2, 3, 6, length), torch.randn(2, 3, length, 5)
        a, b = (
            t * length**-0.5 if per else t for t, per in zip((a, b), relative, strict=True)
        )  # fmt: skip
        assert close(packed(a, b), made(a, b), 4.0)


def test_products_of_shares_have_packed_twins_at_every_length(arithmetic: str) -> None:
    made = QuantMatmul(4, 4, (3, 1), shares=(True, False), shortest=(20, 0))
    bound(made.a_quantizer, torch.tensor([0.0, 0.2]))
    bound(made.b_quantizer, torch.tensor([-2.0, 2.5]))
    packed = made.pack()
    assert packed.shortest == (20, 0)
    for length in (2, 7, 19, 20, 50):
        a, b = torch.randn(2, 3, 6, length).softmax(-1), torch.randn(2, 3, length, 5)
        assert close(packed(a, b), made(a, b), 4.0)
        made.exact = True
        assert torch.equal(packed(a, b), made(a, b))
        made.exact = False


@pytest.mark.parametrize("heads", [(1, 1), (3, 3)])
def test_products_cut_by_row_have_packed_twins(heads: tuple[int, int], arithmetic: str) -> None:
    made = QuantMatmul(4, 3, heads, per_row=True)
    bound(made.a_quantizer, torch.tensor([0.0, 1.0]))
    bound(made.b_quantizer, torch.tensor([-2.0, 2.5]))
    packed = made.pack()
    for length in (1, 2, 7, 50):
        a, b = (3 * torch.randn(2, 3, 6, length)).softmax(-1), torch.randn(2, 3, length, 5)
        assert close(packed(a, b), made(a, b), 4.0)
        made.exact = True
        assert torch.allclose(packed(a, b), made(a, b), rtol=0, atol=1e-6)
        made.exact = False
    for quantizer in (made.a_quantizer, made.b_quantizer):
        quantizer.enabled = False
    assert torch.equal(made(a, b), a @ b)


def test_the_gradient_of_a_product_by_row_is_that_of_the_product() -> None:
    made = QuantMatmul(8, 8, per_row=True)
    made.a_quantizer.set_bounds(Bounds(torch.zeros(1), torch.ones(1)))
    made.b_quantizer.set_bounds(Bounds(-4 * torch.ones(1), 4 * torch.ones(1)))
    logits = torch.randn(2, 6, 20, requires_grad=True)
    b = torch.randn(2, 20, 5, requires_grad=True)
    seed = torch.randn(2, 6, 5)
    found = torch.autograd.grad((made(logits.softmax(-1), b) * seed).sum(), (logits, b))
    wanted = torch.autograd.grad(((logits.softmax(-1) @ b) * seed).sum(), (logits, b))
    for got, want in zip(found, wanted, strict=True):
        assert float((got - want).norm()) < 0.05 * float(want.norm())


@pytest.mark.parametrize("shifted", [True, False])
def test_packed_linear_with_equalised_channels_equals_the_layer(
    shifted: bool, arithmetic: str
) -> None:
    layer = nn.Linear(12, 5)
    made = on_linear(layer)
    made.stretch = torch.logspace(-1, 1, 12)
    shift = torch.randn(12) if shifted else torch.zeros(12)
    made.shift = shift if shifted else None
    x = torch.randn(40, 12) * made.stretch + shift
    bound(made.weight_quantizer, made.stretched_weight().detach())
    bound(made.input_quantizer, made.normalised(x))
    assert close(made.pack()(x), made(x))
    switch(made, False)
    assert torch.allclose(made(x), layer(x), atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("batched", [True, False])
def test_packed_conv2d_with_stretched_channels_equals_the_layer(
    groups: int, batched: bool, arithmetic: str
) -> None:
    conv = nn.Conv2d(4, 8, 3, padding=1, groups=groups)
    made = on_conv(conv)
    made.stretch = torch.tensor([0.2, 1.0, 3.0, 0.7])
    x = torch.randn(2, 4, 6, 5) * made.stretch.view(1, 4, 1, 1)
    x = x if batched else x[0]
    bound(made.weight_quantizer, made.stretched_weight().detach())
    bound(made.input_quantizer, made.normalised(x))
    assert close(made.pack()(x), made(x))
    switch(made, False)
    assert torch.allclose(made(x), conv(x), atol=1e-5)


def test_normalised_channels_of_a_picture_without_batch() -> None:
    made = on_conv(nn.Conv2d(3, 2, 1))
    made.stretch = torch.tensor([1.0, 2.0, 4.0])
    x = torch.randn(3, 5, 4)
    assert torch.equal(made.normalised(x), made.normalised(x[None])[0])


@pytest.mark.parametrize("kind", ["linear", "conv2d", "matmul"])
def test_the_exact_mode_gives_what_the_packed_twin_gives(kind: str, arithmetic: str) -> None:
    made: Any
    if kind == "matmul":
        made = QuantMatmul(4, 4, (3, 3))
        inputs: tuple[Tensor, ...] = torch.randn(2, 3, 6, 10), torch.randn(2, 3, 10, 7)
        bound(made.a_quantizer, inputs[0])
        bound(made.b_quantizer, inputs[1])
    else:
        made = (
            on_linear(nn.Linear(65, 9)) if kind == "linear" else on_conv(nn.Conv2d(5, 4, 3, 2, 1))
        )
        inputs = (torch.randn(3, 65) if kind == "linear" else torch.randn(2, 5, 9, 8),)
        bound(made.input_quantizer, inputs[0])
    made.exact = True
    assert close(made.pack()(*inputs), made(*inputs))


def test_split_linear_is_one_linear_with_a_grid_a_part(arithmetic: str) -> None:
    layer = nn.Linear(6, 9)
    parts = [
        QuantLinear(nn.Parameter(w.clone()), nn.Parameter(b.clone()), Widths(4, 4))
        for w, b in zip(layer.weight.detach().chunk(3), layer.bias.detach().chunk(3), strict=True)
    ]
    split, x = SplitLinear(parts), torch.randn(2, 5, 6)
    switch(split, False)
    assert torch.allclose(split(x), layer(x), atol=1e-6)
    switch(split, True)
    for part in parts:
        bound(part.weight_quantizer, part.weight)
        bound(part.input_quantizer, x)
    packed = split.pack()
    assert all(isinstance(part, PackedLinear) for part in packed.parts)
    assert close(packed(x), split(x))


# ---- Training -----------------------------------------------------------------------------------


def test_gradients_reach_weight_bias_input_and_all_bounds(arithmetic: str) -> None:
    made, x = on_linear(nn.Linear(6, 4), (2, 2)), torch.randn(10, 6, requires_grad=True)
    bound(made.input_quantizer, x.detach())
    made(x).square().sum().backward()
    leaves = dict(made.named_parameters()) | {"x": x}
    assert len(leaves) == 7
    for name, leaf in leaves.items():
        assert leaf.grad is not None and leaf.grad.abs().sum() > 0, name


def test_a_step_on_bounds_leaves_the_weights_alone() -> None:
    made, x = on_conv(nn.Conv2d(3, 4, 3), (2, 2)), torch.randn(2, 3, 6, 6)
    bound(made.input_quantizer, x)
    before = made.weight.detach().clone()
    bounds = [p for n, p in made.named_parameters() if "quantizer" in n]
    optimizer = torch.optim.Adam(bounds, lr=1e-2)
    target, losses = torch.randn(2, 4, 4, 4), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (made(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert torch.equal(made.weight, before)
    assert losses[-1] < losses[0]
    assert close(made.pack()(x), made(x), 4.0)


def test_packing_copies_so_that_training_on_moves_no_packed_layer() -> None:
    made, x = on_linear(nn.Linear(6, 4)), torch.randn(3, 6)
    bound(made.input_quantizer, x)
    packed = made.pack()
    before = packed(x)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(1.0)
    assert torch.equal(packed(x), before)


def test_a_copy_computes_the_same_and_shares_nothing() -> None:
    made, x = on_linear(nn.Linear(6, 4)), torch.randn(3, 6)
    bound(made.input_quantizer, x)
    twin = copy.deepcopy(made)
    assert torch.equal(twin(x), made(x))
    with torch.no_grad():
        twin.weight.zero_()
    assert not torch.equal(twin(x), made(x))


def test_the_table_of_layers_is_complete() -> None:
    assert set(QUANT_LAYERS) == {QuantLinear, QuantConv2d, QuantMatmul, SplitLinear}
