"""Rolls change places with layers only towards an attention, as test_attention.py shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Rolled(nn.Module):
    """Rolls before and behind a layer that no attention follows, or over its channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.one, self.two, self.dim = nn.Linear(16, 16), nn.Linear(16, 16), dim

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x.roll(3, self.dim)).roll(-3, self.dim))


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_other_rolls_stay_where_they_are(lab: Any, dim: int) -> None:
    model = lab.pack(Rolled(dim), torch.randn(3, 50, 16))
    steps = lab.law(model, [torch.randn(3, 50, 16) for _ in range(3)])
    assert sum("roll" in step for step in steps) == 2
