"""What stands beside a layer becomes a part of it, where that gives the same bits, only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Beside(nn.Module):
    """A layer before and one behind what a test does with numbers of 200 tokens."""

    def __init__(self, then: Callable[..., Any]) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(24, 24), nn.Linear(24, 24), nn.LayerNorm(24)
        self.gain, self.slope = nn.Parameter(torch.rand(24) + 0.5), nn.PReLU(init=0.2)
        self.row = nn.Parameter(torch.rand(200, 1))
        self.then = then

    def forward(self, x: Tensor) -> Any:
        h = self.then(self, self.one(x), x)
        return (self.two(h[0]), *h[1:]) if isinstance(h, tuple) else self.two(h)


def tokens() -> Tensor:
    return torch.randn(2, 200, 24)


FUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "relu": (lambda net, h, x: h.relu(), "24x24 relu"),
    "relu in place": (lambda net, h, x: h.relu_(), "24x24 relu"),
    "gelu": (lambda net, h, x: F.gelu(h), "24x24 gelu"),
    "gelu, tanh": (lambda net, h, x: F.gelu(h, approximate="tanh"), "24x24 gelu_tanh"),
    "sigmoid": (lambda net, h, x: torch.sigmoid(h), "24x24 sigmoid"),
    "leaky": (lambda net, h, x: F.leaky_relu(h, 0.1), "24x24 leaky"),
    "norm": (lambda net, h, x: net.norm(h), "norm"),
    "a vector": (lambda net, h, x: h * net.gain, "24x24 mul"),
    "a number": (lambda net, h, x: h * 0.3 + 2, "24x24 mul add"),
    "a number taken away": (lambda net, h, x: h - 0.5, "24x24 sub"),
    "a residual sum": (lambda net, h, x: h + x, "24x24 add"),
    "a residual sum in place": (lambda net, h, x: h.add_(x), "24x24 add"),
    "the other way round": (lambda net, h, x: x + h, "24x24 add"),
    "a gate": (lambda net, h, x: x * torch.sigmoid(h), "24x24 sigmoid mul"),
    "a number a row": (lambda net, h, x: h * x.mean(-1, keepdim=True), "24x24 mul"),
    "all of them": (
        lambda net, h, x: net.norm((F.gelu(h) * net.gain + x).relu() - 1),
        "24x24 gelu mul add relu sub",
    ),
    "through views": (
        lambda net, h, x: (h.view(2, 20, 10, 24).relu() + x.view(2, 20, 10, 24)).flatten(1, 2),
        "24x24 relu add",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_a_layer_takes_what_follows(lab: Any, name: str) -> None:
    then, label = FUSED[name]
    model = lab.pack(Beside(then), tokens())
    steps = lab.law(model, [tokens(), tokens() * 5, -tokens(), torch.zeros_like(tokens())])
    assert any(label in step for step in steps), steps
    assert len(set(steps)) <= 5, steps


ALONE: dict[str, Callable[..., Any]] = {
    "a cumulated sum": lambda net, h, x: h.cumsum(1),
    "the other difference": lambda net, h, x: x.flip(1) - h,
    "a broadcast picture": lambda net, h, x: h + x[:1],
    "a transposed picture": lambda net, h, x: h + x.transpose(0, 1).reshape(2, 200, 24),
    "a number a row, of one text": lambda net, h, x: h * net.row,
    "a number for each token of one": lambda net, h, x: h * x.mean(1, keepdim=True),
    "a mean": lambda net, h, x: h - h.mean(-1, keepdim=True),
    "every second": lambda net, h, x: h[:, ::2].relu(),
    "half the channels": lambda net, h, x: torch.cat([h[..., :12].relu(), h[..., 12:]], -1),
    "read twice": lambda net, h, x: h.relu() + h,
    "squared": lambda net, h, x: h * h,
    "an output": lambda net, h, x: (h.relu(), h),
    "a view of it an output": lambda net, h, x: (h.relu(), h[:, :1]),
    "the step an output": lambda net, h, x: (h.relu(), h.relu() * 2),
    "doubles": lambda net, h, x: (h.double() + 0.1).float(),
    "a double number": lambda net, h, x: h * torch.tensor(0.1, dtype=torch.float64),
    "alpha": lambda net, h, x: torch.add(h, x, alpha=2),
    "norm of heads": lambda net, h, x: F.layer_norm(h.view(2, 200, 3, 8), (8,)).flatten(2),
    "a vector of heads": lambda net, h, x: (h.view(2, 200, 3, 8) * net.gain[:8]).flatten(2),
    "sums of heads": lambda net, h, x: (h.view(2, 200, 3, 8) + x.view(2, 200, 3, 8)).flatten(2),
    "norm of tokens": lambda net, h, x: F.layer_norm(h.transpose(1, 2), (200,)).transpose(1, 2),
    "steps across": lambda net, h, x: (h.transpose(1, 2) * net.row[:, 0]).transpose(1, 2),
    "a wider result": lambda net, h, x: (h[:, None] + x[:, :1, None]).squeeze(1)[:, 0],
    "relu of less": lambda net, h, x: F.relu6(h) - F.threshold(h, 0.1, 0.2),
    "a mask": lambda net, h, x: h.masked_fill(x > 0, 0.0),
    "an old value": lambda net, h, x: (h + 1).mul_(2) + x,
}
"""What no step of the layer may do, or only a part of it; the bits must be right all the same."""


@pytest.mark.parametrize("name", ALONE)
def test_what_is_no_step_of_the_layer(lab: Any, name: str) -> None:
    model = lab.pack(Beside(ALONE[name]), tokens())
    lab.law(model, [tokens(), tokens() * 5, -tokens()])


class Pictures(nn.Module):
    def __init__(self, then: Callable[..., Any]) -> None:
        super().__init__()
        self.head, self.one = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.two, self.norm = nn.Conv2d(16, 16, 1), nn.LayerNorm(16)
        self.tail, self.mix = nn.Conv2d(16, 3, 3, padding=1), nn.Linear(16, 16)
        self.over = nn.Linear(20, 20)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        return self.tail(self.two(self.then(self, self.one(h), h)))


OF_PICTURES: dict[str, tuple[Callable[..., Any], str]] = {
    "relu": (lambda net, h, x: h.relu(), "3x3 relu"),
    "prelu a channel": (lambda net, h, x: F.prelu(h, torch.full((16,), 0.3)), "3x3 prelu"),
    "a sum": (lambda net, h, x: h + x, "3x3 add"),
    "a gate": (lambda net, h, x: x * torch.sigmoid(h), "3x3 sigmoid mul"),
    "a scale": (lambda net, h, x: h * torch.full((16, 1, 1), 0.5), "3x3 mul"),
    "a norm of pixels": (
        lambda net, h, x: net.norm(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), "norm",
    ),
    "a layer over channels": (
        lambda net, h, x: net.mix(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + x, "16x16 add",
    ),
    "a layer over columns": (lambda net, h, x: net.over(h) + x, ""),
    "a layer over rows": (lambda net, h, x: net.over(h.mT).mT + x, ""),
    "a mean of pixels": (lambda net, h, x: h * h.mean((2, 3), keepdim=True), ""),
    "a number a pixel": (lambda net, h, x: h * x.mean(1, keepdim=True), ""),
    "a number a picture": (lambda net, h, x: h + x.mean((1, 2, 3), keepdim=True), ""),
    "a row of pixels": (lambda net, h, x: h + x[:, :, :1], ""),
    "half of them": (lambda net, h, x: torch.cat([h[:, :8] * x[:, 8:], h[:, 8:]], 1), ""),
    "chunks": (lambda net, h, x: torch.cat([a * b for a, b in zip(
        h.chunk(2, 1), x.chunk(2, 1), strict=True)], 1), ""),
    "pooled": (lambda net, h, x: F.interpolate(F.avg_pool2d(h, 2), x.shape[2:]) + x, ""),
    "padded": (lambda net, h, x: F.pad(h, (1, 1, 1, 1), "reflect")[:, :, 1:-1, 1:-1] + x, ""),
    "shuffled": (lambda net, h, x: F.pixel_unshuffle(F.pixel_shuffle(h, 2), 2), "shuffle"),
    "shuffled channels": (
        lambda net, h, x: h.view(-1, 4, 4, *h.shape[2:]).transpose(1, 2).flatten(1, 2) + x, "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", OF_PICTURES)
def test_steps_on_pictures(lab: Any, name: str, last: bool) -> None:
    then, label = OF_PICTURES[name]

    def pictures() -> Tensor:
        x = torch.randn(2, 3, 20, 20)
        return x.contiguous(memory_format=torch.channels_last) if last else x

    model = lab.pack(Pictures(then), pictures())
    steps = lab.law(model, [pictures(), pictures() * 4, -pictures()])
    assert any(label in step for step in steps), steps


def test_zeros_keep_their_sign_and_nan_stays(lab: Any) -> None:
    model = lab.pack(Beside(lambda net, h, x: (h, h.relu() * -1.0)), tokens())
    x = tokens()
    x[0, :7] = float("nan")
    x[1, :9] = float("inf")
    x[1, 9:12] = -0.0
    lab.law(model, [tokens(), x, -x])
