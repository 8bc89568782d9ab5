"""Every convolution of torch as one of pictures: the same numbers, packed, stored and loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import bitcompress
from bitcompress.calibrate.run import grids, quantizers
from bitcompress.errors import LoadError
from bitcompress.graph.capture import capture, private_copy
from bitcompress.layers import CONVOLUTIONS, ConvGeometry, QuantConv2d, Widths
from bitcompress.layers.geometry import Convolution, refusal
from bitcompress.quant.spec import Bounds

LAYERS: dict[str, Callable[[], Convolution]] = {
    "line": lambda: nn.Conv1d(6, 4, 5, stride=2, padding=2, groups=2),
    "line, same": lambda: nn.Conv1d(3, 4, 4, padding="same", dilation=2),
    "line, circular": lambda: nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular", bias=False),
    "line, reflect": lambda: nn.Conv1d(3, 4, 3, padding=2, padding_mode="reflect"),
    "picture": lambda: nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(1, 0)),
    "up": lambda: nn.ConvTranspose2d(3, 4, 4, 2, 1),
    "up, no overlap": lambda: nn.ConvTranspose2d(3, 4, 2, 2, bias=False),
    "up, sides apart": lambda: nn.ConvTranspose2d(3, 4, (4, 3), (2, 3), (1, 0)),
    "up, one more": lambda: nn.ConvTranspose2d(4, 6, 6, 3, 2, output_padding=1, groups=2),
    "up, stride 1": lambda: nn.ConvTranspose2d(3, 4, 3, 1, 1),
    "up, a line": lambda: nn.ConvTranspose1d(4, 6, 8, 4, 2, groups=2),
}


def sizes_of(layer: Convolution, *lead: int) -> tuple[int, ...]:
    return (*lead, layer.in_channels, *(7, 9)[-len(layer.kernel_size) :])


def on_grids(layer: Convolution, bits: int = 8) -> QuantConv2d:
    geometry = ConvGeometry.of_layer(layer)
    weight, bias = geometry.weight_of(layer), geometry.bias_of(layer)
    made = QuantConv2d(weight, bias, geometry, Widths(bits, bits))
    rows = weight.detach().flatten(1)
    made.weight_quantizer.set_bounds(Bounds(rows.amin(1), rows.amax(1)))
    made.input_quantizer.set_bounds(Bounds(torch.tensor([-1.5]), torch.tensor([2.0])))
    return made


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("lead", [(), (2,), (1,)])
def test_without_grids_it_is_the_layer_of_torch(name: str, lead: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]()
    x, made = torch.randn(sizes_of(layer, *lead)), on_grids(layer)
    with torch.no_grad(), grids(quantizers(made), on=False):
        wanted, got = layer(x), made(x)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert made.geometry.float_shape(made.weight.shape) == tuple(layer.weight.shape)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_packed_is_what_was_simulated(name: str, bits: int) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]()
    made, x = on_grids(layer, bits), torch.randn(sizes_of(layer, 3))
    packed = made.pack()
    assert tuple(packed.weight.shape) == tuple(layer.weight.shape)
    made.exact = True
    with torch.no_grad():
        torch.testing.assert_close(packed(x), made(x), rtol=1e-5, atol=1e-5)
        assert torch.equal(packed(x)[1], packed(x[1]))


@settings(max_examples=60, deadline=None)
@given(
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    taps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    data=st.data(),
)
def test_any_transposed_convolution_whose_stride_divides_its_kernel(
    stride: tuple[int, int], taps: tuple[int, int], groups: int, channels: tuple[int, int],
    data: st.DataObject,
) -> None:  # fmt: skip
    kernel = (stride[0] * taps[0], stride[1] * taps[1])
    padding = tuple(data.draw(st.integers(0, size // 2)) for size in kernel)
    more = tuple(
        data.draw(st.integers(0, min(p, s - 1))) for p, s in zip(padding, stride, strict=True)
    )
    layer = nn.ConvTranspose2d(
        groups * channels[0], groups * channels[1], kernel, stride, padding, more, groups
    )  # type: ignore[arg-type]
    assert refusal(layer) == ""
    x, made = torch.randn(2, groups * channels[0], 4, 5), on_grids(layer)
    with torch.no_grad(), grids(quantizers(made), on=False):
        torch.testing.assert_close(made(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.ConvTranspose2d(2, 2, 3, 2, 1, 1), "does not divide its kernel"),
        (nn.ConvTranspose2d(2, 2, 4, 2, dilation=2), "with dilation"),
        (nn.ConvTranspose1d(2, 2, 4, 2, output_padding=1), "output_padding is larger"),
        (nn.Conv1d(2, 2, 3, dilation=2), ""),
    ],
)
def test_what_is_no_convolution_of_pictures(layer: Convolution, said: str) -> None:
    assert said in refusal(layer) and bool(said) == bool(refusal(layer))


class Sized(nn.Module):
    """A transposed convolution that is told its output's size."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 3, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(x, output_size=[2 * x.shape[-2] + 1, 2 * x.shape[-1]])
        return out


def test_a_given_output_size_stays_float() -> None:
    (site,) = capture(private_copy(Sized()), torch.randn(1, 3, 4, 4)).sites
    assert site.refusal == "is called with an output_size"


def body(name: str) -> nn.Sequential:
    """The layer between others, so that it is neither first nor last."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    return nn.Sequential(nn.Tanh(), layer, nn.ReLU(), type(layer)(layer.out_channels, 2, 1)).eval()


@pytest.mark.parametrize("name", LAYERS)
def test_the_whole_way_through_a_file(name: str, tmp_path: Path) -> None:
    net, x = body(name), torch.randn(sizes_of(LAYERS[name](), 2))
    rules: dict[str, Any] = {"rules": [], "train.steps": 2}
    result = bitcompress.quantize(net, x, bits=4, data=[x], overrides=rules)
    assert result.report["states"] == {"packed": 2, "simulated": 0, "float": 0}
    assert result.report["parity"]["psnr_db"] > 100
    bitcompress.save(result, tmp_path / "out")
    packed = bitcompress.load(tmp_path / "out", model=body(name)).model
    larger = torch.randn(3, *x.shape[1:-1], 16)
    for y in (x, larger):
        assert torch.equal(packed(y), result.model(y))
    assert packed(larger).shape == net(larger).shape
    other = next(n for n in LAYERS if type(LAYERS[n]()) is not type(LAYERS[name]()))
    with pytest.raises(LoadError):
        bitcompress.load(tmp_path / "out", model=body(other))


def test_a_batch_norm_after_a_line_is_folded() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 2, 1))
    net[1].running_mean.uniform_()  # type: ignore[union-attr, operator]
    x = torch.randn(2, 3, 12)
    result = bitcompress.quantize(net.eval(), x, bits=8, data=[x], overrides={"rules": []})
    assert result.edits == ({"edit": "identity", "names": ["1"]},)
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), net(x), rtol=0, atol=0.1)


def test_the_table_is_of_layers_that_the_ladder_knows() -> None:
    made = {type(make()) for make in LAYERS.values()}
    assert made == set(CONVOLUTIONS)
