"""Numbers stay codes between layers that cut alike, and reals wherever somebody needs them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

KEPT = "codes kept between layers"
BESIDE = "codes written beside reals"
UNLIKE = "codes not kept: the next layers cut differently"


class Net(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b, self.c, self.d = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Any:
        h = self.a(x)
        if self.how == "chain":
            return self.d(self.c(self.b(h).relu()))
        if self.how == "fan":
            return self.b(h) + self.c(h * 1)
        if self.how == "residual":
            return self.d(h + self.c(self.b(h)))
        if self.how == "output":
            return h, self.b(h)
        if self.how == "part":
            return self.b(torch.cat([h[..., 8:], h[..., :8]], -1))
        return self.b(h.view(-1, 4, 16).transpose(0, 1).reshape(x.shape))


def notes(lab: Any, how: str) -> dict[str, int]:
    def rows() -> Tensor:
        return torch.randn(400, 16)

    model = lab.pack(Net(how), rows())
    lab.law(model, [rows(), rows() * 3, -rows()])
    found: dict[str, int] = lab.programs(model).notes()
    return found


def test_layers_in_a_row_hand_on_codes(lab: Any) -> None:
    assert notes(lab, "chain") == {KEPT: 3}


def test_a_stream_that_is_read_again_is_written_as_both(lab: Any) -> None:
    assert notes(lab, "residual")[BESIDE] == 1


def test_outputs_and_parts_are_reals(lab: Any) -> None:
    assert KEPT not in notes(lab, "output")
    assert KEPT not in notes(lab, "part")
    assert KEPT not in notes(lab, "moved")


def test_readers_that_cut_differently(lab: Any) -> None:
    found = notes(lab, "fan")
    assert KEPT not in found or found[KEPT] == 1


def test_codes_are_smaller_than_reals(lab: Any) -> None:
    model = lab.pack(Net("chain"), torch.randn(400, 16))
    program = lab.settle(model, torch.randn(400, 16))
    held = [t for t in program.fixed.values()]
    assert held and all(t.dtype == torch.uint8 for t in held)
