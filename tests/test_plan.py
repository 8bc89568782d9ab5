"""From a recipe to plans: the last match wins, nothing is matched in vain, budgets hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import RecipeError
from bitcompress.graph.capture import Captured, capture
from bitcompress.graph.rewrite import Plan, insert
from bitcompress.layers import QuantConv2d
from bitcompress.models import MODELS
from bitcompress.plan import coverage, make_plans, mean_bits, still_open, widen
from bitcompress.quant.uniform import UniformQuantizer
from bitcompress.recipe import Recipe


class Net(nn.Module):
    """Convolutions of every role about one product."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.point = nn.Conv2d(8, 8, 1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.mix = nn.Linear(8, 8)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, 3, H, W) -> as x."""
        y = self.head(x)
        for layer in self.body:
            y = layer(y).relu()
        y = self.depth(self.point(y))
        tokens = y.flatten(2).mT
        tokens = self.mix(tokens) @ (tokens.mT @ tokens)
        return self.tail(tokens.mT.view_as(y))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def captured() -> Captured:
    torch.manual_seed(0)
    return capture(Net().eval(), torch.rand(1, 3, 8, 8))


def planned(captured: Captured, *rules: dict[str, Any], **keys: Any) -> dict[str, Plan]:
    """Plans by name."""
    data = {"metadata": {"name": "mine"}, "bits": 4, "rules": list(rules), **keys}
    return {plan.site.name: plan for plan in make_plans(captured, Recipe.parse(data))}


def test_without_rules_everything_has_the_bits_of_the_run(captured: Captured) -> None:
    plans = planned(captured)
    assert {"head", "body.0", "body.1", "point", "depth", "mix", "tail"} <= plans.keys()
    assert all((p.weight_bits, p.act_bits) == (4, 4) for p in plans.values() if p.quantized)
    assert coverage(list(plans.values())) == 1.0


def test_the_last_match_wins_key_by_key(captured: Captured) -> None:
    plans = planned(
        captured,
        {"match": {"type": "conv2d"}, "apply": {"weight_bits": 2, "act_bits": 6, "reason": "one"}},
        {"match": {"name": "body.*"}, "apply": {"weight_bits": 3}},
        {"match": {"name": ["body.1", "tail"]}, "apply": {"weight_bits": "bits", "keep": "float"}},
    )
    widths = {name: (p.weight_bits, p.act_bits, p.keep) for name, p in plans.items()}
    assert widths["head"] == (2, 6, "packed")
    assert widths["body.0"] == (3, 6, "packed")
    assert widths["body.1"] == widths["tail"] == (4, 6, "float")
    assert widths["mix"] == (4, 4, "packed")
    assert plans["body.0"].reason == "one"


def test_roles_and_types_and_names_must_all_match(captured: Captured) -> None:
    plans = planned(
        captured,
        {"match": {"role": "head"}, "apply": {"weight_bits": 8}},
        {"match": {"type": "matmul"}, "apply": {"act_bits": 7}},
        {"match": {"role": "tail", "name": "head"}, "apply": {"weight_bits": 1}, "optional": True},
    )
    assert [name for name, p in plans.items() if p.weight_bits == 8] == ["head"]
    assert {p.site.op for p in plans.values() if p.act_bits == 7} == {"matmul"}


def test_a_selector_that_matches_nothing_is_named(captured: Captured) -> None:
    good = {"apply": {"weight_bits": 2}}
    bad = {"match": {"name": "boddy.0"}, "apply": {}}
    with pytest.raises(RecipeError) as caught:
        planned(captured, good, bad)
    said = str(caught.value)
    assert "recipe 'mine': rules.1.match (name='boddy.0') matches none of" in said
    assert "nearest name: 'body.0'" in said
    assert planned(captured, good, {**bad, "optional": True}) == planned(captured, good)


def test_refused_places_stay_float(captured: Captured) -> None:
    sites = tuple(s.refused("out of bounds") if s.name == "mix" else s for s in captured.sites)
    plan = planned(replace(captured, sites=sites), {"apply": {"keep": "packed"}})["mix"]
    assert (plan.keep, plan.quantized, plan.reason) == ("float", False, "out of bounds")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 1.0])
def test_the_protected_share_is_respected(captured: Captured, share: float) -> None:
    roles = ["tail", "depthwise", "pointwise"]
    plans = planned(captured, protect={"share": share, "bits": 8, "roles": roles})
    total = sum(p.site.macs for p in plans.values())
    wide = [p for p in plans.values() if p.weight_bits == 8]
    assert sum(p.site.macs for p in wide) <= share * total
    assert all(p.site.roles & set(roles) and "kept at 8 bits" in p.reason for p in wide)
    if share == 1.0:
        assert {p.site.name for p in wide} >= {"tail", "depth", "point"}
    if not share:
        assert not wide
    # What was left out would not have fitted.
    left = [p.site.macs for p in plans.values() if p.site.roles & set(roles) and p not in wide]
    room = share * total - sum(p.site.macs for p in wide)
    assert all(macs > room for macs in left)


def test_roles_are_protected_in_the_order_named(captured: Captured) -> None:
    """The share goes to the first role first, however cheap the others are."""
    cost = {p.site.name: p.site.macs for p in planned(captured).values()}
    total = sum(cost.values())
    for roles, kept in (
        (["depthwise", "pointwise"], "depth"),
        (["pointwise", "depthwise"], "point"),
    ):
        share = (cost[kept] + 0.5) / total
        plans = planned(captured, protect={"share": share, "bits": 8, "roles": roles})
        assert plans[kept].weight_bits == 8


def test_products_are_not_float_beside_eight_bits(captured: Captured) -> None:
    protect = {"share": 1.0, "bits": 8, "float_from": 8, "roles": ["qk", "av", "depthwise"]}
    data = {"metadata": {"name": "mine"}, "bits": 8, "protect": protect, "rules": [{"apply": {}}]}
    plans = {p.site.name: p for p in make_plans(captured, Recipe.parse(data))}
    assert plans["depth"].keep == "float"
    assert all(p.keep == "packed" for p in plans.values() if p.site.op == "matmul")


def test_protection_never_narrows(captured: Captured) -> None:
    rule = {"match": {"name": "tail"}, "apply": {"weight_bits": 8, "act_bits": 8, "reason": "mine"}}
    plans = planned(captured, rule, protect={"share": 1.0, "bits": 6, "roles": ["tail"]})
    assert (plans["tail"].weight_bits, plans["tail"].reason) == (8, "mine")


def test_mean_bits_by_hand(captured: Captured) -> None:
    sites = [replace(captured.site(name), macs=macs) for name, macs in (("head", 3), ("mix", 1))]
    plans = [Plan(sites[0], 2, 4), Plan(sites[1], keep="float")]
    assert mean_bits(plans) == ((3 * 2 + 32) / 4, (3 * 4 + 32) / 4)
    product = next(s for s in captured.sites if s.op == "matmul")
    assert mean_bits([Plan(replace(product, macs=5), 3, 6)]) == (6.0, 6.0)
    assert coverage(plans) == 0.75
    simulated = [replace(plans[0], keep="simulated"), plans[1]]
    assert (coverage(simulated), coverage(simulated, "simulated")) == (0.0, 0.75)


def test_2dquant_on_swinir_light_has_384_quantizers() -> None:
    net = MODELS["swinir"].build(
        embed_dim=60, depths=[6, 6, 6, 6], num_heads=[6, 6, 6, 6], window_size=8, mlp_ratio=2.0,
        upscale=2, upsampler="pixelshuffledirect",
    )  # fmt: skip
    with torch.no_grad():
        light = capture(net.eval(), torch.rand(1, 3, 8, 8), second_size=False)
    model = insert(light, make_plans(light, Recipe.load("2dquant")))
    assert sum(isinstance(m, UniformQuantizer) for m in model.modules()) == 384
    assert not any(isinstance(m, QuantConv2d) for m in model.modules())
    assert sum(type(m) is nn.Conv2d for m in model.modules()) == 7
    assert all(m.lower.numel() == 1 for m in model.modules() if isinstance(m, UniformQuantizer))


def test_protected_layers_stay_float_from_a_width_on(captured: Captured) -> None:
    keys = {"rules": [{"apply": {}}]}
    protect = {"share": 1.0, "bits": 8, "float_from": 8, "roles": ["depthwise"]}
    for bits, keep, width in ((4, "packed", 8), (8, "float", 8)):
        data = {"metadata": {"name": "mine"}, "bits": bits, "protect": protect, **keys}
        plans = {p.site.name: p for p in make_plans(captured, Recipe.parse(data))}
        assert (plans["depth"].keep, plans["depth"].weight_bits) == (keep, width)
        assert plans["depth"].reason.startswith("depthwise: kept")
        assert plans["body.0"].keep == "packed"


def test_the_rest_of_the_share_goes_to_the_loudest_for_their_work(captured: Captured) -> None:
    recipe = Recipe.model_validate(
        {"metadata": {"name": "mine"}, "bits": 4, "rules": [{"apply": {}}],
         "protect": {"share": 0.4, "bits": 8, "loudest": True}}
    )  # fmt: skip
    plans = make_plans(captured, recipe)
    total = sum(p.site.macs for p in plans)
    names = [p.site.name for p in plans if p.quantized and p.site.macs]
    errors = {name: float(2**i) for i, name in enumerate(names)}
    made, wider = widen(plans, errors, recipe)
    assert wider
    spent = sum(p.site.macs for p in made if p.weight_bits == 8)
    assert 0 < spent <= 0.4 * total
    for plan in made:
        assert (plan.weight_bits == plan.act_bits == 8) == (plan.site.name in wider)
        assert ("loud" in plan.reason) == (plan.site.name in wider)
    # Whoever is left out does not fit any more, or moves the output less for its work.
    price = {p.site.name: errors[p.site.name] / p.site.macs for p in plans if p.site.name in errors}
    for plan in plans:
        if plan.site.name in price and plan.site.name not in wider:
            louder = [n for n in wider if price[n] >= price[plan.site.name]]
            taken = sum(p.site.macs for p in plans if p.site.name in louder)
            assert taken + plan.site.macs > 0.4 * total
    # What is wide already counts; without knowledge nothing is chosen.
    assert widen(made, errors, recipe)[1] == ()
    assert widen(plans, {}, recipe)[1] == ()
    # inspect, which measures nothing, says what is open.
    assert "up to 40.0 % of the multiply-accumulates" in still_open(plans, recipe)
    for key, value in (("loudest", False), ("share", 0.0), ("float_from", 4)):
        closed = recipe.model_copy(
            update={"protect": recipe.protect.model_copy(update={key: value})}
        )
        assert still_open(plans, closed) == ""
