"""Weights that are computed on each run become plain ones, with the same outputs to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from bitcompress import api, api_binary
from bitcompress.artifact import load, save
from bitcompress.errors import LoadError
from bitcompress.graph.plain import plain_weights

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning"
)


class Positive(nn.Module):
    """A parametrization of somebody's own."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.softplus(x)


class Dropped(nn.Module):
    """One that is never the same twice."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Wider(nn.Module):
    """One whose result has another shape than what it is made from."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], 1)


def own(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Positive())


def pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.5)
    return prune.random_structured(layer, "weight", 0.3, dim=0)


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm, hook": weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm, hook": spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": own,
    "pruned": pruned,
}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(8, 8),
    "conv": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(8, 8, 2, stride=2),
}


def net_of(kind: str) -> nn.Module:
    """A small picture network, every layer but the first of one kind."""
    torch.manual_seed(0)
    change = KINDS[kind]
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), change(nn.Conv2d(32, 32, 3, padding=1)), nn.ReLU(),
        change(nn.Conv2d(32, 32, 3, padding=1)), nn.Conv2d(32, 3, 3, padding=1),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", LAYERS)
def test_outputs_stay_the_same_and_parameters_stay_what_they_were(kind: str, layer: str) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(KINDS[kind](LAYERS[layer]())).eval()
    x = torch.randn(2, 8) if layer == "linear" else torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        wanted = net(x)
        assert plain_weights(net) == ["0"]
        assert torch.equal(net(x), wanted)
    assert set(dict(net.named_parameters())) == {"0.weight", "0.bias"}
    assert not list(net.buffers()) and not net[0]._forward_pre_hooks
    assert not parametrize.is_parametrized(net[0])
    assert net[0].weight.requires_grad
    assert plain_weights(net) == []


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_layers_stay_frozen(kind: str) -> None:
    net = nn.Sequential(KINDS[kind](nn.Linear(8, 8)))
    net.requires_grad_(False).eval()
    assert plain_weights(net) == ["0"] and not net[0].weight.requires_grad


@pytest.mark.parametrize("part", [Dropped(), Wider()])
def test_what_cannot_be_kept_is_left_alone(part: nn.Module) -> None:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", part, unsafe=True)
    assert plain_weights(nn.Sequential(layer)) == []
    assert parametrize.is_parametrized(layer)


@pytest.mark.parametrize("kind", KINDS)
def test_such_a_model_is_packed_kept_and_read_again(kind: str, tmp_path: Path) -> None:
    net, x = net_of(kind), torch.rand(1, 3, 16, 16)
    done = api.quantize(net, x, recipe="minmax", data=[x])
    layers = {row["name"]: row["state"] for row in done.report["layers"]}
    assert layers["1"] == layers["3"] == "packed"
    with torch.no_grad():
        assert torch.equal(net(x), net_of(kind)(x))  # the user's model is as it was
    save(done, tmp_path / "out")
    again = load(tmp_path / "out", net_of(kind)).model
    with torch.no_grad():
        assert torch.equal(again(x), done.model(x))
    with pytest.raises(LoadError, match="computed on each run"):
        load(tmp_path / "out", net_of_plain())


def net_of_plain() -> nn.Module:
    """The same network without a trick."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 3, 3, padding=1),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["weight norm", "weight norm, hook", "spectral norm", "pruned"])
def test_such_a_model_becomes_binary(kind: str, tmp_path: Path) -> None:
    net, x = net_of(kind), torch.rand(2, 3, 16, 16)
    settings = {"train.steps": 1, "train.batch": 2, "train.precision": "fp32"}
    done = api_binary.binarize(net, x, recipe="reactnet", data=[x, x], overrides=settings)
    layers = {row["name"]: row["state"] for row in done.report["layers"]}
    assert layers["1"] == layers["3"] == "packed"
    save(done, tmp_path / "out")
    again = load(tmp_path / "out", net_of(kind)).model
    with torch.no_grad():
        assert torch.equal(again(x), done.model(x))
