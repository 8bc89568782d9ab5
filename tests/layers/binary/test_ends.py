"""The activation behind a sum: it starts as the float one, learns, and runs the steps of blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitcompress.errors import ShapeError, UsageError
from bitcompress.layers.binary import EndActivation, end_activation
from bitcompress.layers.binary.ends import KINDS

SHAPES = {1: (2, 5, 4, 3), -1: (2, 7, 5)}


@pytest.mark.parametrize("axis", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [nn.ReLU(), nn.LeakyReLU(0.2), nn.PReLU(5, 0.3)])
def test_it_starts_as_the_float_activation(kind: str, given: nn.Module, axis: int) -> None:
    x = torch.randn(SHAPES[axis])
    want = x.clamp(min=0) + x.clamp(max=0) * getattr(given, "negative_slope", 0.0)
    if isinstance(given, nn.PReLU):
        want = x.clamp(min=0) + x.clamp(max=0) * 0.3
    found = end_activation(kind, given, 5, axis)
    torch.testing.assert_close(found.eval()(x), want)
    torch.testing.assert_close(found.train()(x), want)


@pytest.mark.parametrize("axis", SHAPES)
def test_its_numbers_are_those_of_the_formula(axis: int) -> None:
    torch.manual_seed(0)
    end = end_activation("rprelu", nn.ReLU(), 5, axis)
    with torch.no_grad():
        for table in end.parameters():
            table.normal_()
    x = torch.randn(SHAPES[axis])
    rows = [t[0] if axis == -1 else t[0].view(-1, 1, 1) for t in end.parameters()]
    slope, before, after = rows
    moved = x + before
    want = torch.where(moved < 0, moved * slope, moved) + after
    assert torch.equal(end.eval()(x), want)
    torch.testing.assert_close(end.train()(x), want)


def test_settings_build_it_again() -> None:
    end = end_activation("prelu", nn.PReLU(5, 0.3), 5, 1)
    again = EndActivation.build(end.settings())
    again.load_state_dict(end.state_dict())
    x = torch.randn(SHAPES[1])
    assert torch.equal(end.eval()(x), again.eval()(x)) and again.settings() == end.settings()


def test_other_activations_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot absorb GELU"):
        end_activation("prelu", nn.GELU(), 5, 1)


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (5,)])
def test_other_channels_are_refused(shape: tuple[int, ...]) -> None:
    end = end_activation("prelu", nn.ReLU(), 5, 1)
    with pytest.raises(ShapeError, match="an activation of 5 channels"):
        end(torch.zeros(shape))
