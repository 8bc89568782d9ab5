"""How far layers move the output: against running the model with each layer's grids alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitcompress.calibrate import SEARCHES
from bitcompress.calibrate.observe import calibrate
from bitcompress.calibrate.run import grids, quantizers
from bitcompress.calibrate.sensitivity import sensitivities
from bitcompress.graph.capture import capture
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.rewrite import Plan, insert, quant_layers


class Mixed(nn.Module):
    """A linear, a convolution used twice, and a product; one layer is far the loudest."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.loud, self.quiet = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.conv(torch.tanh(self.conv(x)))
        y = 30 * self.loud(x) + 0.01 * self.quiet(x)
        return {"y": y @ y.transpose(-2, -1).softmax(-1), "n": torch.tensor(3)}


def student(net: nn.Module, x: Tensor) -> Rewritten:
    captured = capture(net, x)
    made = insert(captured, [Plan(site, 4, 4) for site in captured.sites])
    calibrate(made, [x], SEARCHES["mse"])
    return made


def test_they_are_the_errors_of_the_layers_alone() -> None:
    torch.manual_seed(0)
    net, x = Mixed(), torch.randn(1, 4, 8, 8)
    made = student(net, x)
    layers = quant_layers(made)
    found = sensitivities(made, layers, [x] * 400)
    with torch.no_grad(), grids(quantizers(made), on=False):
        clean = made(x)["y"]
        for name, layer in layers.items():
            with grids(quantizers(layer), on=True):
                alone = float((made(x)["y"] - clean).square().sum())
            assert 0.5 * alone < found[name] < 2 * alone, name
    assert found["loud"] > 1000 * found["quiet"]


def test_the_model_is_left_as_it_was() -> None:
    net, x = Mixed(), torch.randn(1, 4, 8, 8)
    made = student(net, x)

    def hooks() -> list[int]:
        return [len(layer._forward_hooks) for layer in quant_layers(made).values()]

    with torch.no_grad():
        before, had = made(x)["y"], hooks()
        sensitivities(made, quant_layers(made), [x])
        assert torch.equal(made(x)["y"], before)
    assert all(p.grad is None for p in made.parameters())
    assert hooks() == had


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_parameters_do_not_matter(frozen: bool) -> None:
    torch.manual_seed(0)
    net, x = Mixed(), torch.randn(1, 4, 8, 8)
    made = student(net, x)
    for parameter in made.parameters():
        parameter.requires_grad_(not frozen)
    assert all(v > 0 for v in sensitivities(made, quant_layers(made), [x]).values())


def test_layers_that_no_gradient_reaches_have_none() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.b(self.a(x).round())
            return y

    net, x = Cut(), torch.randn(3, 8)
    found = sensitivities(made := student(net, x), quant_layers(made), [x])
    assert found["a"] == 0 < found["b"]
