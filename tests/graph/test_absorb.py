"""What surrounds a layer: norms, activations, shortcuts, joins, as one recorded run shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.errors import CaptureError
from bitcompress.graph.absorb import Surroundings, feeds_products, surroundings, view_of
from bitcompress.graph.capture import capture, capture_tree


class Around(nn.Module):
    """A forward that is one expression over a convolution and what may stand beside it."""

    def __init__(self, what: Callable[[Around, Tensor], Any]) -> None:
        super().__init__()
        self.what = what
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.conv, self.other = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.two = nn.Conv2d(16, 8, 1)
        self.norm, self.group = nn.BatchNorm2d(8), nn.GroupNorm(2, 8)
        self.relu, self.prelu = nn.ReLU(), nn.PReLU(8)
        self.up, self.shuffle = nn.Upsample(scale_factor=2), nn.PixelShuffle(2)
        self.slope = nn.Parameter(torch.full((8,), 0.3))
        self.last = nn.LazyConv2d(2, 1)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.what(self, self.first(x)))


def facts(what: Callable[[Around, Tensor], Any], name: str = "conv") -> Surroundings:
    torch.manual_seed(0)
    net = Around(what).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        net(x)
    captured = capture(net, x)
    return surroundings(view_of(captured), captured.site(name))


def test_a_norm_and_an_activation_behind() -> None:
    found = facts(lambda m, x: m.relu(m.norm(m.conv(x))))
    assert found.norm == "norm" and found.activation is not None
    assert found.activation.kind == "relu" and found.activation.name == "@relu.0"
    assert not (found.residual or found.opens or found.closes or found.one_sided)
    assert found.size == (8, 8) and found.pixels == 64


ACTIVATIONS: dict[str, tuple[Callable[[Around, Tensor], Tensor], type[nn.Module], float]] = {
    "function": (lambda m, x: F.relu(m.conv(x)), nn.ReLU, 0.0),
    "method": (lambda m, x: m.conv(x).relu_(), nn.ReLU, 0.0),
    "in place": (lambda m, x: F.relu(m.conv(x), inplace=True), nn.ReLU, 0.0),
    "leaky": (lambda m, x: F.leaky_relu(m.conv(x), 0.05), nn.LeakyReLU, 0.05),
    "keyword": (
        lambda m, x: F.leaky_relu(m.conv(x), negative_slope=0.2), nn.LeakyReLU, 0.2,
    ),
    "prelu": (lambda m, x: m.prelu(m.conv(x)), nn.PReLU, 0.25),
    "prelu of a parameter": (lambda m, x: F.prelu(m.conv(x), m.slope), nn.PReLU, 0.3),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_however_they_are_called(name: str) -> None:
    what, kind, slope = ACTIVATIONS[name]
    found = facts(what).activation
    assert found is not None and isinstance(found.layer, kind)
    assert torch.allclose(found.layer(torch.tensor([[-1.0] * 8])), torch.tensor(-slope))


@pytest.mark.parametrize(
    "what",
    [
        lambda m, x: F.gelu(m.conv(x)),
        lambda m, x: (y := m.conv(x)).relu() + y,
        lambda m, x: m.group(m.conv(x)).relu(),
        lambda m, x: m.conv(x) + m.conv(x).relu(),
        lambda m, x: m.relu(m.conv(x) + m.other(x)),
        lambda m, x: F.prelu(m.conv(x), m.slope * 2),
    ],
    ids=["gelu", "read twice", "group norm", "once of two runs", "behind a sum", "computed slope"],
)
def test_activations_that_are_not_the_layers_own(what: Any) -> None:
    assert facts(what).activation is None


def test_one_relu_module_is_told_apart_by_its_calls() -> None:
    def what(m: Around, x: Tensor) -> Tensor:
        return m.relu(m.other(m.relu(m.conv(x))) + x)

    one, other = facts(what).activation, facts(what, "other").activation
    assert one is not None and one.calls[0].ordinal == 0
    assert other is None  # the second call stands behind the sum


def test_a_norm_of_two_layers_or_read_twice_is_no_ones() -> None:
    assert not facts(lambda m, x: m.norm(m.conv(x)) + m.norm(m.other(x))).norm
    assert not facts(lambda m, x: m.norm(y := m.conv(x)) + y).norm
    assert facts(lambda m, x: m.norm(m.conv(m.norm(m.conv(x))))).norm == "norm"


RESIDUALS: dict[str, tuple[Callable[[Around, Tensor], Tensor], str, str]] = {
    "none": (lambda m, x: m.conv(x), "conv", ""),
    "alone": (lambda m, x: x + m.conv(x), "conv", "alone"),
    "in place": (lambda m, x: m.conv(x).add_(x), "conv", "alone"),
    "first of two": (lambda m, x: x + m.other(m.conv(x)), "conv", ""),
    "last of two": (lambda m, x: x + m.other(m.conv(x)), "other", "last"),
    "scaled": (lambda m, x: x + 0.1 * m.norm(m.conv(m.other(x))), "conv", "last"),
    "parallel": (lambda m, x: m.conv(x) + m.other(x), "conv", ""),
    "beside a projection": (lambda m, x: m.conv(m.other(x)) + m.two(torch.cat([x, x], 1)),
                            "conv", "alone"),
    "the projection": (lambda m, x: m.conv(m.other(x)) + m.two(torch.cat([x, x], 1)), "two", ""),
    "a shift by channel": (lambda m, x: m.conv(x) + x.mean((2, 3), keepdim=True), "conv", ""),
    "a bias": (lambda m, x: m.conv(x) + m.slope.view(-1, 1, 1), "conv", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", RESIDUALS)
def test_shortcuts_of_the_model(name: str) -> None:
    what, layer, wanted = RESIDUALS[name]
    assert facts(what, layer).residual == wanted


def test_joins_and_enlargements_before_and_shuffles_behind() -> None:
    joined = facts(lambda m, x: m.two(torch.cat([m.conv(x), x], 1)), "two")
    assert joined.joined == (8, 8)
    assert facts(lambda m, x: m.two(torch.cat((x, x), dim=1)), "two").joined == (8, 8)

    def read_twice(m: Around, x: Tensor) -> Tensor:
        y = torch.cat([x, x], 1)
        return m.two(y) + y[:, :8]

    assert facts(read_twice, "two").joined == ()
    for enlarged in (
        facts(lambda m, x: m.conv(m.up(x))),
        facts(lambda m, x: m.conv(F.interpolate(x, scale_factor=2))),
    ):
        assert enlarged.enlarged is not None and enlarged.enlarged.kind == "interpolate"
    assert facts(lambda m, x: m.conv(F.interpolate(x, size=(16, 16)))).enlarged is None
    bilinear = facts(lambda m, x: m.conv(F.interpolate(x, None, 2, "bilinear")))
    assert bilinear.enlarged is None
    assert facts(lambda m, x: m.shuffle(m.conv(x))).shuffle == 2
    assert facts(lambda m, x: F.pixel_shuffle(m.conv(x), 2)).shuffle == 2


def test_gates_ends_and_one_sided_inputs() -> None:
    assert facts(lambda m, x: x * torch.sigmoid(m.conv(x))).gate
    assert not facts(lambda m, x: x * torch.sigmoid(m.group(m.conv(x)))).gate
    assert facts(lambda m, x: m.conv(x.relu())).one_sided
    assert facts(lambda m, x: m.conv(x), "first").opens
    assert facts(lambda m, x: m.conv(x), "last").closes


def test_what_sees_the_timestep_alone_is_a_condition() -> None:
    class Timed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.conv = nn.Linear(4, 8), nn.Conv2d(3, 8, 1)
            self.mix = nn.Linear(8, 8)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            emb = self.emb(t.float()[:, None].expand(-1, 4))
            return self.mix((self.conv(x) + emb[:, :, None, None]).flatten(2).mT)

    captured = capture(Timed().eval(), (torch.randn(2, 3, 4, 4), torch.tensor([1, 2])))
    view = view_of(captured, "t")
    told = {site.name: surroundings(view, site).conditions for site in captured.sites}
    assert told == {"emb": True, "conv": False, "mix": False}


def test_projections_of_attention_are_known() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.out(F.scaled_dot_product_attention(q, k, v))

    captured = capture(Attends().eval(), torch.randn(2, 5, 8))
    view = view_of(captured)
    assert feeds_products(view, captured.site("qkv"))
    assert not feeds_products(view, captured.site("out"))


def test_a_tree_alone_says_too_little() -> None:
    with pytest.raises(CaptureError, match="give example_inputs"):
        view_of(capture_tree(nn.Linear(3, 3)))
