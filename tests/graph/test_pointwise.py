"""Calls of activations that a block took over: answered where they stand, and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.graph.capture import capture
from bitcompress.graph.intercept import Call, Rewritten
from bitcompress.graph.pointwise import Absorbed


class Net(nn.Module):
    """Two activations in a forward that is one expression."""

    def __init__(self, what: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.what = what
        self.relu, self.six, self.up = nn.ReLU(), nn.ReLU6(), nn.Upsample(scale_factor=2)
        self.block = nn.Sequential(nn.ReLU(), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.what(self, x)


SAME: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "module": lambda m, x: m.relu(m.relu(x) - 1),
    "function": lambda m, x: torch.relu(F.relu(x) - 1),
    "both": lambda m, x: m.relu(F.relu(x) - 1),
    "method": lambda m, x: (x.relu() - 1).relu(),
    "written in place": lambda m, x: (x.clone().relu_() - 1).relu_(),
    "module of its own": lambda m, x: m.relu(F.relu(m.six(x)) - 1),
}


@pytest.mark.parametrize("name", SAME)
def test_one_of_two_calls_is_answered_by_its_input(name: str) -> None:
    net, x = Net(SAME[name]).eval(), torch.randn(3, 4)
    captured = capture(net, x)
    assert captured.recording is not None
    places = [node.meta["pointwise"] for node in captured.recording.pointwise]
    assert places == [("", "relu", 0), ("", "relu", 1)]
    model = Rewritten(captured.net)
    model.replace_call(Call("", "relu", 1), "", "@relu.1", Absorbed())
    start = x.clamp(0, 6) if name == "module of its own" else x
    for each in (model, copy.deepcopy(model)):
        assert torch.equal(each(x), start.relu() - 1)
    assert torch.equal(net.what(net, x), (start.relu() - 1).relu())


def test_calls_in_a_sequential_belong_to_it() -> None:
    net, x = Net(lambda m, x: m.block(x)), torch.randn(3, 4)
    captured = capture(net, x)
    assert captured.recording is not None
    assert captured.recording.pointwise[0].meta["pointwise"] == ("block", "relu", 0)
    model = Rewritten(captured.net)
    model.replace_call(Call("block", "relu", 0), "", "block@relu.0", Absorbed())
    assert torch.equal(model(x), x.tanh())


def test_what_replaces_a_call_in_place_writes_in_place() -> None:
    def what(m: Net, x: Tensor) -> Tensor:
        y = x.clone()
        F.relu(y, inplace=True)
        return y

    captured = capture(Net(what), torch.randn(3, 4))
    model = Rewritten(captured.net)
    model.replace_call(Call("", "relu", 0), "", "@relu.0", nn.LeakyReLU(0.5))
    x = torch.randn(3, 4)
    assert torch.equal(model(x), F.leaky_relu(x, 0.5))


def test_enlargements_are_calls_too() -> None:
    captured = capture(Net(lambda m, x: m.up(x)), torch.randn(1, 1, 4, 4))
    model = Rewritten(captured.net)
    model.replace_call(Call("", "interpolate", 0), "", "@interpolate.0", Absorbed())
    x = torch.randn(1, 1, 4, 4)
    assert torch.equal(model(x), x)


def test_calls_that_differ_from_run_to_run_are_known() -> None:
    def what(m: Net, x: Tensor) -> Tensor:
        return x.relu() if x.shape[-1] > 8 else (x.tanh() + 1)

    captured = capture(Net(what), torch.randn(1, 1, 12, 12))
    assert ("", "relu") not in captured.changing

    def other(m: Net, x: Tensor) -> Tensor:
        return x.relu() if x.shape[-1] == 12 else (x.tanh() + 1).relu()

    captured = capture(Net(other), torch.randn(1, 1, 12, 12))
    assert ("", "relu") in captured.changing
