"""A program ends where the model it was made of does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bitcompress import native
from bitcompress.program.state import State, copy_of, first_change


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


containers = st.lists(
    st.one_of(st.dictionaries(st.text(max_size=2), st.integers()), st.lists(st.integers())),
    min_size=1, max_size=8,
)  # fmt: skip


@given(containers, st.data())
def test_the_native_comparison_is_the_one_in_python(held: list[Any], data: st.DataObject) -> None:
    kernels = native.kernels()
    if kernels is None:
        pytest.skip(native.why_not())
    copies = [copy_of(one) for one in held]
    assert kernels.first_change(held, copies) == first_change(held, copies) == -1
    place = data.draw(st.integers(0, len(held) - 1))
    one, new = held[place], object()
    if isinstance(one, list):
        one.append(new)
    elif one and data.draw(st.booleans()):
        one[next(iter(one))] = new
    else:
        one[new] = 1
    assert kernels.first_change(held, copies) == first_change(held, copies) == place


def test_the_native_comparison_refuses_what_it_cannot_compare() -> None:
    kernels = native.kernels()
    if kernels is None:
        pytest.skip(native.why_not())
    with pytest.raises(ValueError, match="as many"):
        kernels.first_change([{}], [])
    with pytest.raises(TypeError, match="a copy is a tuple"):
        kernels.first_change([{}], [{}])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="a dict or a list"):
        kernels.first_change([(1,)], [(1,)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="as many"):
        kernels.first_other([1], "real", [])
    with pytest.raises(AttributeError):
        kernels.first_other([1], "no_such", [1])
    assert kernels.first_other([1, 10**20], "real", [1, 10**20]) == -1
    assert kernels.first_other([1, 10**20], "real", [1, 10**19]) == 1
    assert kernels.first_filled([{}, {}, {1: 2}]) == 2 and kernels.first_filled([]) == -1


def test_a_change_is_told_by_its_place(lab: Any) -> None:
    model = lab.pack(lab.Body(), rows())
    for name, change in {
        "net": lambda: setattr(model.net, "factor", 3.0),
        "net.table": lambda: model.net.table.update(shift=1.0),
        "net.two._buffers": lambda: setattr(model.net.two, "bias", None),
        "numbers of a tensor": lambda: model.net.gain.add_(1),
        "net.one._forward_hooks": lambda: model.net.one.register_forward_hook(lambda *a: None),
    }.items():
        state = State(model)
        assert state.change() == ""
        change()
        assert state.change() == name
    assert State(model).objection == "modules have hooks"
    with torch.inference_mode():
        model.net.mask = torch.rand(32)
    assert "inference mode" in State(model).objection
