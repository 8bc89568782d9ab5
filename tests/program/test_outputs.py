"""Outputs of any kind come out as they were, and belong to the caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def rows(*size: int) -> Tensor:
    return torch.randn(*(size or (6, 8)))


@dataclass
class Sample:
    sample: Tensor


OUTPUTS: dict[str, tuple[Callable[..., Any], bool]] = {
    "pair": (lambda net, h: (h, h * 2), True),
    "nested": (lambda net, h: {"a": [h, (h + 1, None)], "b": 3, "c": "text"}, True),
    "views": (lambda net, h: (h[:2], h[2:], h.t()), True),
    "twice": (lambda net, h: (h, h), True),
    "numbers alone": (lambda net, h: (h.argmax(-1), h > 0), True),
    "a number": (lambda net, h: h.sum(), True),
    "dataclass": (lambda net, h: Sample(h), False),
    "a constant": (lambda net, h: (h, net.gain), False),
    "made of constants": (lambda net, h: (h, net.gain * 2), False),
    "complex": (lambda net, h: torch.complex(h, h * 2), True),
    "empty": (lambda net, h: (h, h[:0]), True),
    "sparse": (lambda net, h: (h, h.relu().to_sparse()), False),
}


class Ending(nn.Module):
    """Two linears, and what a test makes of their result."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 32), nn.Linear(32, 8)
        self.register_buffer("gain", torch.rand(8))
        self.end = lambda net, h: h

    def forward(self, x: Tensor) -> Any:
        return self.end(self, self.two(self.one(x)))


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_of_any_kind(lab: Any, name: str) -> None:
    between, programmed = OUTPUTS[name]
    net = Ending()
    model = lab.pack(net, rows())
    model.net.end = between
    kept = []
    with torch.no_grad():
        for _ in range(6):
            x = rows()
            y, own = model(x), model.run_net(x)
            assert type(y) is type(own)
            if name != "sparse":
                assert lab.equal(y, own)
            if name == "twice":
                assert y[0] is y[1]
            if name == "views":
                assert y[0].untyped_storage().data_ptr() == y[1].untyped_storage().data_ptr()
            kept.append((y, own))
    assert bool(lab.programs(model).steps()) == programmed, lab.programs(model).refusals()
    if name != "sparse":
        assert all(lab.equal(y, own) for y, own in kept)  # later runs have changed nothing


@pytest.mark.parametrize("size", [(6, 8), (700, 8)])
def test_outputs_belong_to_the_caller(lab: Any, size: tuple[int, int]) -> None:
    model = lab.pack(lab.Body(lambda net, h: h.relu()), rows(*size))
    assert lab.settle(model, rows(*size))
    x = rows(*size)
    with torch.no_grad():
        own = model.run_net(x)
        for _ in range(4):
            y = model(x)
            assert lab.equal(y, own)
            y.mul_(float("nan"))


def test_an_argument_that_is_changed_or_handed_back(lab: Any) -> None:
    class Filling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.armed = nn.Linear(8, 8), False

        def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
            y = self.one(given["x"])
            if self.armed:
                given["y"] = y
            return given if self.armed else {"y": y}

    class Handing(Filling):
        def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
            y = self.one(given["x"])
            if self.armed:
                given["x"] = y
            return given if self.armed else {"y": y}

    for kind in (Filling, Handing):
        model = lab.pack(kind(), {"given": {"x": rows()}})
        model.net.armed = True
        with torch.no_grad():
            for _ in range(5):
                given, twin = {"x": rows()}, {}
                twin.update(given)
                out = model(given)
                assert out is given and lab.equal(out, model.run_net(twin))


def test_an_input_changed_in_place(lab: Any) -> None:
    class Doing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.armed = nn.Linear(8, 8), False

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x.add_(1) if self.armed else x + 1)

    model = lab.pack(Doing(), rows())
    model.net.armed = True
    with torch.no_grad():
        for _ in range(5):
            x, y = rows(), rows()
            y.copy_(x)
            assert lab.equal(model(x), model.run_net(y)) and torch.equal(x, y)
    assert "an input is changed" in lab.programs(model).refusals()[0]
