"""Attention is gathered from where its operands lie, and rolls become a part of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

GATHERED = "attention gathered in place"


class Attention(nn.Module):
    """Attention over tokens (B, 8, 16, C) whose operands and result a test moves."""

    def __init__(
        self, cut: Callable[[Tensor], Tensor], join: Callable[[Tensor, Tensor], Tensor],
        bias: Callable[..., Any] | None = None, scale: float | None = 0.25,
    ) -> None:  # fmt: skip
        super().__init__()
        self.qkv, self.out, self.last = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 16)
        self.cut, self.join, self.bias, self.scale = cut, join, bias, scale
        self.table = nn.Parameter(torch.randn(1, 1, 1) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.cut(part) for part in self.qkv(x).chunk(3, -1))
        q = q if self.scale is None else q * self.scale
        logits = q @ k.transpose(-2, -1)
        logits = logits if self.bias is None else self.bias(self, logits, x)
        y = self.join(logits.softmax(-1) @ v, x)
        return self.last(self.out(y) + x)


def heads(t: Tensor) -> Tensor:
    return t.flatten(1, 2).unflatten(-1, (2, 8)).transpose(1, 2)


def from_heads(y: Tensor, x: Tensor) -> Tensor:
    return y.transpose(1, 2).reshape(x.shape)


def windows(t: Tensor) -> Tensor:
    b, h, w, c = t.shape
    t = t.view(b, h // 4, 4, w // 8, 8, 2, c // 2).permute(0, 1, 3, 5, 2, 4, 6)
    return t.reshape(-1, 2, 32, c // 2)


def from_windows(y: Tensor, x: Tensor) -> Tensor:
    b, h, w, c = x.shape
    y = y.view(b, h // 4, w // 8, 2, 4, 8, c // 2).permute(0, 1, 4, 2, 5, 3, 6)
    return y.reshape(x.shape)


def shifted(t: Tensor) -> Tensor:
    return windows(t.roll((-2, -4), (1, 2)))


def from_shifted(y: Tensor, x: Tensor) -> Tensor:
    return from_windows(y, x).roll((2, 4), (1, 2))


CASES: dict[str, tuple[Any, Any, Any, bool]] = {
    "heads": (heads, from_heads, None, True),
    "windows": (windows, from_windows, None, True),
    "shifted windows": (shifted, from_shifted, None, True),
    "a bias": (windows, from_windows, lambda net, a, x: a + net.table, True),
    "a mask": (windows, from_windows, lambda net, a, x: a + torch.eye(32) * -9, True),
    "channels": (
        lambda t: heads(t).transpose(-2, -1), lambda y, x: from_heads(y.transpose(-2, -1), x),
        None, False,
    ),
    "a bias of the input": (windows, from_windows, lambda net, a, x: a + x.mean(), False),
    "logits read": (windows, from_windows, lambda net, a, x: a.clamp(max=3), False),
    "numbers changed": (lambda t: windows(t.abs()), from_windows, None, True),
}  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("recipe", ["minmax", "default"])
@pytest.mark.parametrize("name", CASES)
def test_attention_of_any_tokens(lab: Any, name: str, recipe: str, batch: int) -> None:
    cut, join, bias, gathered = CASES[name]

    def tokens() -> Tensor:
        return torch.randn(batch, 8, 16, 16)

    model = lab.pack(Attention(cut, join, bias), tokens(), recipe=recipe)
    steps = lab.law(model, [tokens(), tokens() * 3, tokens() - 1])
    assert bool(lab.programs(model).notes().get(GATHERED)) == gathered, lab.programs(model).notes()
    if gathered:
        assert "attention" in steps


def test_a_roll_of_tokens_is_no_step_of_its_own(lab: Any) -> None:
    model = lab.pack(Attention(shifted, from_shifted), torch.randn(2, 8, 16, 16))
    steps = lab.law(model, [torch.randn(2, 8, 16, 16) for _ in range(3)])
    assert not any("roll" in step or "clone" in step for step in steps), steps


def test_grids_of_heads_and_rows(lab: Any) -> None:
    model = lab.pack(Attention(windows, from_windows), torch.randn(2, 8, 16, 16), recipe="default")
    lab.law(model, [torch.randn(2, 8, 16, 16) for _ in range(3)])
    assert lab.programs(model).notes()["queries, keys and values kept as codes"] == 1
