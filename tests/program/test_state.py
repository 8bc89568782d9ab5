"""A program ends where the model it was made of does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def rows(*size: int) -> Tensor:
    return torch.randn(*(size or (6, 8)))


CHANGES: dict[str, Callable[[Any], Any]] = {
    "an attribute": lambda net: setattr(net, "factor", 3.0),
    "an entry": lambda net: net.table.update(shift=0.75),
    "a buffer in place": lambda net: net.gain.mul_(2),
    "a buffer": lambda net: setattr(net, "gain", torch.rand(32)),
    "a hidden tensor": lambda net: net.mask.mul_(2),
    "another hidden tensor": lambda net: setattr(net, "mask", torch.rand(32)),
    "the weight of a layer": lambda net: net.one.weight_scale.data.mul_(2),
    "a scale in place": lambda net: net.one.weight_scale.mul_(2),
    "codes in place": lambda net: net.one.codes.zero_(),
    "the grid of an input": lambda net: net.two.input_scale.mul_(3),
    "a bias": lambda net: setattr(net.two, "bias", None),
    "a layer": lambda net: setattr(net, "two", nn.Linear(32, 8)),
    "a function": lambda net: setattr(net, "between", lambda net, h: -h),
    "a mode": lambda net: net.train(),
    "a hook": lambda net: net.two.register_forward_hook(lambda m, a, y: y * 2),
    "a hook before": lambda net: net.two.register_forward_pre_hook(lambda m, a: (a[0] * 2,)),
    "a forward": lambda net: setattr(net.one, "forward", lambda x: x.repeat(1, 4)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_that_changed_runs_as_it_is_now(lab: Any, name: str) -> None:
    def between(net: Any, h: Tensor) -> Tensor:
        return h * net.factor * net.gain * net.mask + net.table["shift"]

    model = lab.pack(lab.Body(between), rows())
    assert lab.settle(model, rows())
    x = rows()
    with torch.no_grad():
        before = model(x)
        CHANGES[name](model.net)
        after = model(x)
        assert lab.equal(after, model.run_net(x))
    assert name == "a mode" or not torch.equal(before, after) or name == "the weight of a layer"
    lab.check(model)


class Counting(nn.Module):
    """A forward that keeps state in Python."""

    def __init__(self, keep: str) -> None:
        super().__init__()
        self.one, self.keep, self.calls, self.seen = nn.Linear(8, 8), keep, 0, []
        self.last = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        if self.keep == "counter":
            self.calls += 1
            return self.one(x) * self.calls
        if self.keep == "list":
            self.seen.append(len(x))
            return self.one(x) * len(self.seen)
        y = self.one(x) + self.last
        self.last = y.mean() if self.keep else self.last
        return y


@pytest.mark.parametrize("keep", ["counter", "list", "tensor"])
def test_a_forward_that_keeps_state_runs_itself(lab: Any, keep: str) -> None:
    model = lab.pack(Counting(""), rows())
    twin = copy.deepcopy(model)
    model.net.keep = twin.net.keep = keep
    twin.programs = None
    with torch.no_grad():
        for _ in range(12):
            x = rows()
            assert lab.equal(model(x), twin(x))
    assert not lab.programs(model).steps()


def test_state_that_nobody_can_see_is_found_by_comparing(lab: Any) -> None:
    count = [0]

    def between(net: Any, h: Tensor) -> Tensor:
        count[0] += 1
        return h * (count[0] >= 20)

    count[0] = 100
    model = lab.pack(lab.Body(between), rows())
    x, count[0] = rows(), 17
    with torch.no_grad():
        outs = [model(x) for _ in range(4)]
    assert not torch.equal(outs[2], outs[1]) and torch.equal(outs[2], outs[3])
    assert "another run gave other bits than the model" in lab.programs(model).refusals()
