"""Laws of weighing layers alone: who is loud is what trying each by itself says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitcompress.calibrate import SEARCHES, calibrate
from bitcompress.calibrate.loud import loud_layers
from bitcompress.calibrate.run import grids, quantizers
from bitcompress.graph.capture import capture
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.rewrite import insert, quant_layers
from bitcompress.plan import make_plans
from bitcompress.recipe import Recipe


class Chain(nn.Module):
    """Five convolutions, each added to its input with a weight of its own."""

    def __init__(self, gains: tuple[float, ...]) -> None:
        super().__init__()
        self.body = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in gains)
        self.gains = gains

    def forward(self, x: Tensor) -> Tensor:
        """Every convolution sees the input itself, so their errors add up."""
        total = x
        for gain, layer in zip(self.gains, self.body, strict=True):
            total = total + gain * layer(x)
        return total


def student(gains: tuple[float, ...], bits: int = 4) -> tuple[Rewritten, Tensor]:
    torch.manual_seed(3)
    batch = torch.rand(2, 4, 12, 12)
    captured = capture(Chain(gains).eval(), batch)
    data = {"metadata": {"name": "mine"}, "bits": bits, "rules": [{"apply": {}}]}
    model = insert(captured, make_plans(captured, Recipe.parse(data)))
    calibrate(model, [batch], SEARCHES["minmax"])
    return model, batch


@pytest.mark.parametrize("gains", [(1, 1, 9, 1, 1), (9, 1, 1, 1, 5), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize("share", [0.05, 0.15, 0.5])
def test_the_loud_are_those_that_are_loud_alone(gains: tuple[float, ...], share: float) -> None:
    model, batch = student(gains)
    layers = quant_layers(model)
    everything = quantizers(model)
    with torch.no_grad():
        with grids(everything, on=False):
            clean = model(batch)
        whole = float((model(batch) - clean).double().square().sum())
        alone = {}
        for name, layer in layers.items():
            with grids(everything, on=False), grids(quantizers(layer), on=True):
                alone[name] = float((model(batch) - clean).double().square().sum())
    expected = [name for name in layers if alone[name] > share * whole]
    assert loud_layers(model, layers, batch, share) == expected
    assert all(q.enabled for q in everything)


def test_no_candidates_cost_no_run() -> None:
    model, _ = student((1, 1))
    assert loud_layers(model, {}, "not a batch", 0.1) == []


def test_outputs_of_any_form_are_weighed() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> dict[str, object]:
            return {"one": self.a(x), "more": (self.b(x) * 100, None)}

    torch.manual_seed(0)
    batch = torch.rand(3, 6)
    captured = capture(Two().eval(), batch)
    data = {"metadata": {"name": "mine"}, "bits": 4, "rules": [{"apply": {}}]}
    model = insert(captured, make_plans(captured, Recipe.parse(data)))
    calibrate(model, [batch], SEARCHES["minmax"])
    assert loud_layers(model, quant_layers(model), batch, 0.1) == ["b"]
