"""Widths under a budget of bytes: reached, monotone, and refused where nothing fits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitcompress.budget import WIDTHS
from bitcompress.budget import fit_budget as fit
from bitcompress.errors import UsageError
from bitcompress.graph.capture import capture
from bitcompress.graph.rewrite import Plan
from bitcompress.packed.stored import packed_bytes
from bitcompress.plan import make_plans
from bitcompress.recipe import Recipe


@pytest.fixture(scope="module")
def made() -> tuple[nn.Module, tuple[Plan, ...]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.LayerNorm(32),
                        nn.Linear(32, 8)).eval()  # fmt: skip
    with torch.no_grad():
        # Two values a row: one bit says it all, so narrowing this layer costs next to nothing.
        weight = net.get_parameter("2.weight")
        weight.copy_(weight.sign() * 0.1)
    captured = capture(net, torch.randn(3, 64))
    rules = [{"match": {"name": "4"}, "apply": {"keep": "float", "reason": "mine"}}]
    recipe = Recipe.parse({"metadata": {"name": "t"}, "bits": 4, "rules": rules})
    return net, make_plans(captured, recipe)


def fit_budget(net: nn.Module, plans: tuple[Plan, ...], target: int) -> tuple[Plan, ...]:
    return fit(net, plans, target, lambda chosen: stored(net, tuple(chosen)))


def stored(net: nn.Module, plans: tuple[Plan, ...]) -> int:
    """The bytes of the codes, the rows' two halves, and all else in half precision."""
    total, coded = 2_500, 0
    for plan in plans:
        if plan.quantized:
            weight = net.get_parameter(f"{plan.site.name}.weight")
            coded += weight.numel()
            total += packed_bytes(weight.numel(), plan.weight_bits) + 4 * weight.shape[0]
    return total + 2 * (sum(p.numel() for p in net.parameters()) - coded)


def test_a_loose_target_gives_the_widest(made: tuple[nn.Module, tuple[Plan, ...]]) -> None:
    fitted = fit_budget(*made, 10_000_000)
    assert [p.weight_bits for p in fitted if p.quantized] == [WIDTHS[0]] * 2


def test_targets_are_reached_and_not_by_much(made: tuple[nn.Module, tuple[Plan, ...]]) -> None:
    net, plans = made
    low = stored(net, fit_budget(net, plans, stored(net, fit_budget(net, plans, 10**7))))
    sizes = []
    for target in range(low - 3000, low + 1, 500):
        size = stored(net, fit_budget(net, plans, target))
        assert size <= target
        # One step of the largest layer is 512 bytes.
        assert size > target - 1100
        sizes.append(size)
    assert sizes == sorted(sizes)


def test_the_layer_that_loses_nothing_narrows_first(
    made: tuple[nn.Module, tuple[Plan, ...]],
) -> None:
    net, plans = made
    top = stored(net, fit_budget(net, plans, 10**7))
    widths = {p.site.name: p.weight_bits for p in fit_budget(net, plans, top - 600)}
    assert widths["2"] < widths["0"] == 8


def test_activations_and_float_layers_stay(made: tuple[nn.Module, tuple[Plan, ...]]) -> None:
    net, plans = made
    fitted = fit_budget(net, plans, stored(net, fit_budget(net, plans, 10**7)) - 2000)
    assert [p.act_bits for p in fitted] == [p.act_bits for p in plans]
    assert fitted[-1] == plans[-1]
    assert "--target-bytes" in fitted[0].reason


def test_an_impossible_target_is_refused(made: tuple[nn.Module, tuple[Plan, ...]]) -> None:
    with pytest.raises(UsageError, match=r"--target-bytes 1000: even at 2 bits .* takes \d+ bytes"):
        fit_budget(*made, 1000)
