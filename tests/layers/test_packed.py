"""Packed layers: geometry of every padding, codes as state, what model code may ask of a weight."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.errors import UsageError
from bitcompress.layers import ConvGeometry, PackedConv2d, PackedLinear, PackedMatmul
from bitcompress.layers.packed import pad_for
from bitcompress.packed import PackedTensor, unpack
from bitcompress.quant import Codes


def stored(shape: tuple[int, ...], bits: int = 3) -> PackedTensor:
    view = (-1,) + (1,) * (len(shape) - 1)
    codes = torch.randint(0, 2**bits, shape, dtype=torch.uint8)
    scale, offset = torch.rand(shape[0]) + 0.1, torch.randn(shape[0])
    return PackedTensor.pack(Codes(codes, scale.view(view), offset.view(view), bits))


def linear(bits: int = 3) -> PackedLinear:
    return PackedLinear(
        stored((5, 7), bits), torch.randn(5), torch.tensor(0.1), torch.tensor(-1.0), 4
    )


def conv2d(geometry: ConvGeometry) -> PackedConv2d:
    return PackedConv2d(
        stored((4, 3, 3, 3)), torch.randn(4), torch.tensor(0.1), torch.tensor(-1.0), 4, geometry
    )


# ---- Geometry -----------------------------------------------------------------------------------

# What torch says of padding="same" with an even kernel.
quiet = pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel:UserWarning")

GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 3), "padding": (2, 1), "dilation": (1, 2)},
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": "valid", "stride": 2},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": (2, 3), "padding": "same"},
    {"kernel_size": (4, 2), "padding": "same", "dilation": (1, 3)},
]
MODES = ["zeros", "reflect", "replicate", "circular"]


@quiet
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arguments", GEOMETRIES, ids=str)
def test_a_geometry_means_what_conv2d_means(arguments: dict[str, Any], mode: Any) -> None:
    conv = nn.Conv2d(2, 3, padding_mode=mode, bias=False, **arguments)
    pairs = [conv.kernel_size, conv.stride, conv.padding, conv.dilation]
    kernel, stride, padding, dilation = (p if isinstance(p, str) else tuple(p) for p in pairs)
    geometry = ConvGeometry.of(kernel, stride, padding, dilation, 1, mode)  # type: ignore[arg-type]
    for size in ((9, 8), (13, 12)):
        x = torch.randn(2, 2, *size)
        y = F.conv2d(
            pad_for(x, geometry), conv.weight, None, geometry.stride, geometry.padding,
            geometry.dilation, geometry.groups,
        )  # fmt: skip
        assert torch.allclose(geometry.closed(y, x), conv(x), atol=1e-6)


# ---- State --------------------------------------------------------------------------------------


def test_the_state_holds_codes_and_no_float_weight() -> None:
    layer = linear(bits=2)
    state = layer.state_dict()
    assert state["weight"].dtype == torch.uint8 and state["weight"].numel() == 9
    assert [name for name, _ in layer.named_parameters()] == ["weight_scale"]
    assert not layer.weight_scale.requires_grad
    assert set(state) == {
        "weight", "weight_scale", "weight_offset", "input_scale", "input_offset", "bias",
    }  # fmt: skip


@pytest.mark.parametrize("make", [linear, lambda: conv2d(ConvGeometry())])
def test_a_copy_and_a_loaded_state_compute_the_same(make: Any, arithmetic: str) -> None:
    layer, other = make(), make()
    x = torch.randn(2, 7) if isinstance(layer, PackedLinear) else torch.randn(2, 3, 5, 5)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


def test_model_code_may_ask_for_type_place_and_shape_of_the_weight() -> None:
    for layer, shape in ((linear(), (5, 7)), (conv2d(ConvGeometry()), (4, 3, 3, 3))):
        weight: Tensor = layer.weight
        assert weight.dtype == torch.float32 and weight.device.type == "cpu"
        assert tuple(weight.shape) == shape
        assert weight.isnan().all(), "its numbers are gone, and say so"
        assert unpack(layer.codes, 3, shape).max() < 8


def test_moving_a_layer_keeps_its_codes() -> None:
    layer = linear().double()
    assert layer.codes.dtype == torch.uint8 and layer.weight_scale.dtype == torch.float64


def test_print_says_shape_and_widths() -> None:
    assert "(5, 7), W3A4" in repr(linear())
    one = torch.ones(()), torch.zeros(())
    assert "A4 x A2" in repr(PackedMatmul(one, one, (4, 2), (False, False)))


# ---- Inputs of other shapes ---------------------------------------------------------------------


def test_a_picture_without_batch_gives_one_without_batch(arithmetic: str) -> None:
    layer = conv2d(ConvGeometry(padding=(1, 1)))
    x = torch.randn(3, 6, 5)
    y = layer(x)
    assert y.shape == (4, 6, 5) and torch.equal(y, layer(x[None])[0])


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (2, 3, 4)])
def test_linear_takes_any_leading_sizes(lead: tuple[int, ...], arithmetic: str) -> None:
    layer = linear()
    x = torch.randn(*lead, 7)
    y = layer(x)
    assert y.shape == (*lead, 5)
    assert torch.equal(y.reshape(-1, 5), layer(x.reshape(-1, 7)))


@pytest.mark.parametrize(
    ("left", "right"),
    [((4, 5), (5, 6)), ((2, 3, 4, 5), (5, 6)), ((4, 5), (2, 3, 5, 6)), ((2, 1, 4, 5), (3, 5, 6))],
)
def test_matmul_broadcasts_as_torch_does(
    left: tuple[int, ...], right: tuple[int, ...], arithmetic: str
) -> None:
    one = torch.ones(()), torch.zeros(())
    layer = PackedMatmul(one, one, (8, 8), (False, False))
    a, b = torch.randint(0, 256, left).float(), torch.randint(0, 256, right).float()
    assert torch.equal(layer(a, b), torch.matmul(a, b))


# ---- Steps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("size", [(5, 4), (9, 33)])
def test_a_convolution_of_signs_is_exact(groups: int, size: tuple[int, int]) -> None:
    """Input at theta and above counts as +1, below and NaN as -1, outside of the picture as 0."""
    c, o = 4 * groups, 3 * groups
    w, theta, a = torch.randn(o, 4, 3, 3), torch.randn(c).round(), torch.rand(o) + 0.1
    x = (torch.randn(2, c, *size) * 2).round()
    x[0, 0, 0, :2] = torch.tensor([float("nan"), float("-inf")])
    theta[1], x[:, 1] = 0.0, torch.where(x[:, 1] == 0, -0.0, x[:, 1])
    view = a.view(-1, 1, 1, 1)
    weight = PackedTensor.pack(Codes((w >= 0).to(torch.uint8), 2 * view, -view, 1))
    geometry = ConvGeometry.of((3, 3), (1, 1), (1, 1), (1, 1), groups, "zeros")
    layer = PackedConv2d(
        weight, None, torch.tensor(2.0), torch.tensor(-1.0), 1, geometry, torch.zeros(c), theta
    )
    signs = (x >= theta.view(-1, 1, 1)).float() * 2 - 1
    sums = F.conv2d(signs, (w >= 0).float() * 2 - 1, padding=1, groups=groups)
    assert torch.equal(layer(x), sums * a.view(-1, 1, 1))
    assert torch.equal(layer(x.requires_grad_()).detach(), sums * a.view(-1, 1, 1))


def test_a_shift_without_steps_is_refused() -> None:
    geometry = ConvGeometry.of((1, 1), (1, 1), (0, 0), (1, 1), 1, "zeros")
    with pytest.raises(UsageError, match="cut by steps"):
        PackedConv2d(
            stored((4, 3, 1, 1)), None, torch.tensor(1.0), torch.tensor(0.0), 1, geometry,
            torch.ones(3), torch.zeros(3),
        )  # fmt: skip
