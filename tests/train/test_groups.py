"""Groups, stages and schedules: small tables with values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from bitcompress.errors import RecipeError
from bitcompress.train.config import FitConfig
from bitcompress.train.groups import groups_of
from bitcompress.train.schedule import SCHEDULES, rate
from bitcompress.train.stages import Stage, ordered, part_of


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Linear(4, 2))


def test_only_weights_of_products_decay() -> None:
    model = net()
    model.register_parameter("table", nn.Parameter(torch.zeros(5, 4)))
    decayed = {id(p) for g in groups_of(model, 0.1, 0.5) for p in g.params if g.weight_decay}
    assert decayed == {id(model[0].weight), id(model[3].weight)}


def test_every_parameter_is_in_one_group() -> None:
    model = net()
    model[3].weight.requires_grad_(False)
    found = [id(p) for g in groups_of(model, 0.1, 0.5) for p in g.params]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in model.parameters() if p.requires_grad}


def test_rates_scale_and_freeze_the_first_that_fits() -> None:
    model = net()
    groups = groups_of(model, 0.1, rates=[("0.bias", 0.0), ("0.*", 0.5)])
    of = {id(p): g.lr for g in groups for p in g.params}
    assert of[id(model[0].weight)] == 0.05 and id(model[0].bias) not in of
    assert of[id(model[1].weight)] == 0.1


def test_patterns_and_models_that_give_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="name no parameter"):
        groups_of(net(), 0.1, rates=[("tail.*", 1.0)])
    with pytest.raises(RecipeError, match="no parameter that training could move"):
        groups_of(nn.ReLU(), 0.1)


def test_schedules_by_hand() -> None:
    at = {name: [curve(s) for s in (0.0, 0.3, 0.5, 1.0)] for name, curve in SCHEDULES.items()}
    assert at["linear"] == [1.0, 0.7, 0.5, 0.0]
    assert at["constant"] == [1.0] * 4
    assert at["cosine"] == pytest.approx([1.0, 0.5 + 0.5 * math.cos(0.3 * math.pi), 0.5, 0.0])
    assert at["onecycle"][0] == pytest.approx(0.04) and at["onecycle"][1] == pytest.approx(1.0)
    assert at["onecycle"][3] == pytest.approx(4e-6)


def test_one_cycle_is_that_of_torch() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=101, cycle_momentum=False, pct_start=31 / 101
    )
    config = FitConfig(steps=100, schedule="onecycle")
    for step in range(100):
        assert rate(step, config) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        theirs.step()


def test_an_epoch_holds_the_rate() -> None:
    config = FitConfig(steps=10, schedule="linear", epoch=5)
    assert [rate(s, config) for s in (0, 4, 5, 9)] == [1.0, 1.0, 0.5, 0.5]


def test_parts_of_a_run_have_schedules_of_their_own() -> None:
    stages = [Stage(0.4, print, restart=True), Stage(0.7, print)]
    config = FitConfig(steps=10, schedule="linear")
    parts = [part_of(step, 10, stages) for step in range(10)]
    assert parts == [(0, 4)] * 4 + [(4, 6)] * 6
    rates = [rate(step, config, *parts[step]) for step in range(10)]
    assert rates == pytest.approx([1, 3 / 4, 1 / 2, 1 / 4, 1, 5 / 6, 4 / 6, 1 / 2, 2 / 6, 1 / 6])


def test_stages_outside_the_run_are_refused_and_others_ordered() -> None:
    late, early = Stage(0.9, print), Stage(0.1, print)
    assert ordered([late, early]) == (early, late)
    for at in (-0.1, 1.0):
        with pytest.raises(RecipeError, match="a stage begins at"):
            ordered([replace(late, at=at)])
