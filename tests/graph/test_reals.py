"""A model on codes has the layer norm, GELU and sigmoid of packed/: the same bits everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bitcompress import native
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.reals import REALS
from bitcompress.models.swinir import SwinIR
from bitcompress.packed.gelu import define_gelu
from bitcompress.packed.group_norm import define_group_norm
from bitcompress.packed.norm import define_layer_norm
from bitcompress.packed.pixels import define_pixel_mean
from bitcompress.packed.sigmoid import define_sigmoid, define_silu
from bitcompress.packed.unit import define_unit

aten = torch.ops.aten


class Mlp(nn.Module):
    """Linear, layer norm, an activation, linear, a gate: what stands between layers."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(12, 20), nn.Linear(20, 12)
        self.norm, self.act = nn.LayerNorm(20), act
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.outside(self.act(self.norm(self.inside(x))))


ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu by tanh": nn.GELU(approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "method": lambda x: x.sigmoid(),
    "silu": nn.SiLU(),
    "in place": nn.SiLU(inplace=True),
    "operator": aten.gelu.default,
}


def tokens() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 17, 12)


def simulated(model: Rewritten, x: Tensor) -> Tensor:
    """What the packed twin must give, found in float64."""
    layers = [m for m in model.modules() if hasattr(m, "exact")]
    for layer in layers:
        layer.exact = True
    model.on_codes = True
    with torch.no_grad():
        y: Tensor = model(x)
    for layer in layers:
        layer.exact = False
    model.on_codes = False
    return y


@pytest.mark.parametrize("name", ACTS)
def test_packed_and_simulated_are_the_same_bits(
    name: str, walked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = walked(Mlp(ACTS[name]), tokens())
    with torch.no_grad():
        y = done.packed(tokens())
    assert torch.equal(y, simulated(done.simulated, tokens()))
    monkeypatch.setattr(native, "_load", lambda: (None, "switched off by the test"))
    with torch.no_grad():
        assert torch.equal(y, done.packed(tokens()))


def test_a_whole_network_is_the_same_bits(walked: Any) -> None:
    torch.manual_seed(0)
    net = SwinIR(12, (2, 2), (2, 2), 4, 2.0, 2, upsampler="pixelshuffledirect")
    x = torch.rand(1, 3, 8, 12)
    done = walked(net, x)
    with torch.no_grad():
        y = done.packed(x)
    assert torch.equal(y, simulated(done.simulated, x))


WANTED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "layer norm": (
        lambda x: F.layer_norm(x, (12,)), lambda x: define_layer_norm(x, None, None, 1e-5)
    ),
    "layer norm of torch": (
        lambda x: torch.layer_norm(x, [12], torch.ones(12), torch.ones(12), 0.5),
        lambda x: define_layer_norm(x, torch.ones(12), torch.ones(12), 0.5),
    ),
    "group norm": (
        lambda x: F.group_norm(x, 17), lambda x: define_group_norm(x, 17, None, None, 1e-5)
    ),
    "group norm of torch": (
        lambda x: torch.group_norm(x, 1, torch.ones(17), torch.ones(17), 0.5),
        lambda x: define_group_norm(x, 1, torch.ones(17), torch.ones(17), 0.5),
    ),
    "gelu": (lambda x: F.gelu(input=x), define_gelu),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), lambda x: define_gelu(x, "tanh")),
    "sigmoid": (F.sigmoid, define_sigmoid),
    "silu": (F.silu, define_silu),
    "normalize": (F.normalize, lambda x: define_unit(x, 1, 1e-12)),
    "normalize rows": (
        lambda x: F.normalize(x, dim=-1, eps=0.5), lambda x: define_unit(x, -1, 0.5)
    ),
    "pooling to one place": (
        lambda x: F.adaptive_avg_pool2d(x[None], 1), lambda x: pooled(x)[..., None, None]
    ),
    "its module": (
        lambda x: nn.AdaptiveAvgPool2d((1, 1))(x[None]), lambda x: pooled(x)[..., None, None]
    ),
    "mean over pixels": (lambda x: x[None].mean((2, 3)), lambda x: pooled(x)),
    "mean that keeps its axes": (
        lambda x: torch.mean(x[None], dim=[-1, -2], keepdim=True),
        lambda x: pooled(x)[..., None, None],
    ),
}  # fmt: skip
THEIRS: dict[str, Callable[[Tensor], Tensor]] = {
    "another length": lambda x: F.normalize(x, p=1.0),
    "groups of a matrix": lambda x: F.group_norm(x[0], 3),
    "two axes": lambda x: F.layer_norm(x, (17, 12)),
    "double": lambda x: F.gelu(x.double()),
    "mean of one side": lambda x: x[None].mean((1, 2)),
    "mean of all": lambda x: x.mean(),
    "mean without pixels": lambda x: x[None, :, :0].mean((2, 3), keepdim=True).nan_to_num(7.0),
    "pooling of no picture": lambda x: F.adaptive_avg_pool2d(x[None][:0], 1),
    "mean in double": lambda x: x[None].mean((2, 3), dtype=torch.float64),
    "pooling to four places": lambda x: F.adaptive_avg_pool2d(x[None], 2),
    "pooling without a batch": lambda x: F.adaptive_avg_pool2d(x, 1),
    "a place to write": lambda x: torch.sigmoid(x, out=torch.empty_like(x)),
    "in place": lambda x: x.clone().sigmoid_(),
    "watched": lambda x: watched(F.gelu, x),
}


def pooled(x: Tensor) -> Tensor:
    """The mean of each channel."""
    return define_pixel_mean(x[None])


def watched(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with Watch():
        return function(x)


class Watch(TorchDispatchMode):
    """Somebody who follows the operators."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


class Calls(nn.Module):
    """A layer on codes, and a function beside it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = nn.Linear(12, 12), function

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), self.function(x)


@pytest.mark.parametrize("name", WANTED)
def test_functions_are_those_of_packed(name: str, walked: Any) -> None:
    function, wanted = WANTED[name]
    done = walked(Calls(function), tokens())
    with torch.no_grad():
        got, floated = done.packed(tokens())[1], done.switched_off(tokens())[1]
    assert torch.equal(got, wanted(tokens()))
    assert torch.equal(floated, function(tokens()))


@pytest.mark.parametrize("name", THEIRS)
def test_what_is_not_ours_stays_with_torch(name: str, walked: Any) -> None:
    function = THEIRS[name]
    done = walked(Calls(lambda x: x), tokens())
    done.packed.net.function = function
    with torch.no_grad():
        assert torch.equal(done.packed(tokens())[1], function(tokens()))


CONVOLUTIONS: dict[str, tuple[nn.Module, bool]] = {
    "a convolution": (nn.Conv2d(5, 7, 3, padding=1), True),
    "with strides, without bias": (nn.Conv2d(5, 8, (3, 1), (2, 1), dilation=2, bias=False), True),
    "on padding by name": (nn.Conv2d(5, 4, 3, padding="same"), True),
    "in groups": (nn.Conv2d(5, 10, 3, groups=5), False),
    "in double": (nn.Conv2d(5, 7, 3).double(), False),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_float_convolutions_run_on_channels_last(name: str) -> None:
    layer, ours = CONVOLUTIONS[name]
    torch.manual_seed(0)
    x = torch.randn(2, 5, 12, 9, dtype=layer.weight.dtype)  # type: ignore[call-overload]
    model = Rewritten(nn.Sequential(layer))
    model.on_codes = True
    last = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        y, wanted, plain = model(x), layer(last), layer(x)
        assert torch.equal(y, wanted if ours else plain)
        assert y.is_contiguous(memory_format=torch.channels_last) == ours
        assert torch.equal(model(last), wanted)
    torch.testing.assert_close(y, plain)
    assert torch.equal(model(x), layer(x))  # gradients flow: torch's own


def test_gradients_are_those_of_torch(walked: Any) -> None:
    done = walked(Calls(F.gelu), tokens())
    x = tokens().requires_grad_()
    ours, theirs = done.packed(x)[1], F.gelu(x)
    got, wanted = (torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs))
    assert torch.equal(got, wanted)


def test_every_function_has_its_test() -> None:
    assert {f.__name__ for f in REALS.values()} == {
        "_layer_norm", "_group_norm", "_gelu", "_sigmoid", "_silu", "_normalize", "_conv2d",
        "_pooled", "_mean",
    }  # fmt: skip
