"""The timestep by name: found in any forward, read before each run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import DataError, RecipeError
from bitcompress.graph.timed import clock_of, set_by, time_input


class Clock(nn.Module):
    """Remembers what it was set to."""

    def set(self, value: Any) -> None:
        self.seen = value


class Reads(nn.Module):
    """A model that answers with what its clock says."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, x: Tensor, t: Any, label: Any = None) -> Any:
        return self.clock.seen


class KeywordOnly(Reads):
    """Takes its timestep by keyword alone, with a value of its own."""

    def forward(self, x: Tensor, *, sigma: int = 7) -> Any:  # type: ignore[override]
        return self.clock.seen


def untimed(x: Tensor, **more: Any) -> Tensor:
    return x


def test_it_is_found_by_a_usual_name_or_the_one_given() -> None:
    found = time_input(Reads(Clock()))
    assert found is not None and (found.name, found.position) == ("t", 1)
    given = time_input(Reads(Clock()), "label")
    assert given is not None and (given.name, given.position) == ("label", 2)
    alone = time_input(KeywordOnly(Clock()))
    assert alone is not None and (alone.name, alone.position) == ("sigma", None)


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x, t: m(x, t),
        lambda m, x, t: m(x, t=t),
        lambda m, x, t: m(t=t, x=x),
        lambda m, x, t: m(x, t, label=3),
    ],
)
def test_it_is_read_however_it_is_given(call: Callable[..., Any]) -> None:
    model = Reads(Clock())
    source = time_input(model)
    assert source is not None
    set_by(model, model.clock, source)
    for t in (torch.tensor([3, 4]), 5):
        assert call(model, torch.zeros(2), t) is t
    found = clock_of(model)
    assert found is not None and found == (model.clock, source)


def test_a_value_of_its_own_is_taken_and_a_missing_one_refused() -> None:
    model = KeywordOnly(Clock())
    source = time_input(model)
    assert source is not None
    set_by(model, model.clock, source)
    assert model(torch.zeros(1)) == 7 and model(torch.zeros(1), sigma=2) == 2
    other = Reads(Clock())
    source = time_input(other)
    assert source is not None
    set_by(other, other.clock, source)
    with pytest.raises(DataError, match="without its timestep 't'"):
        other(torch.zeros(1))


def test_a_copy_sets_its_own_clock() -> None:
    model = Reads(Clock())
    source = time_input(model)
    assert source is not None
    set_by(model, model.clock, source)
    copied = copy.deepcopy(model)
    assert model(torch.zeros(1), 1) == 1 and copied(torch.zeros(1), 2) == 2
    assert model.clock.seen == 1


def test_names_that_are_not_there() -> None:
    assert time_input(nn.Linear(2, 2)) is None and clock_of(nn.Linear(2, 2)) is None
    with pytest.raises(RecipeError, match=r"no argument 'sigma' .* it takes x, t, label"):
        time_input(Reads(Clock()), "sigma")
    net = nn.Module()
    net.forward = untimed
    assert time_input(net) is None
    with pytest.raises(RecipeError, match="no argument 'more'"):
        time_input(net, "more")
