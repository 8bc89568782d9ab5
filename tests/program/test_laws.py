"""The law of the room: whatever the model, its program gives the bits that its forward gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.models import MODELS


class Residual(nn.Module):
    def __init__(self, act: nn.Module | None = None, channels: int = 16, **conv: Any) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.one = nn.Conv2d(channels, channels, 3, padding=1, **conv)
        self.two = nn.Conv2d(channels, channels, 3, padding=1, **conv)
        self.act = act or nn.ReLU()
        self.tail = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        h = h + self.two(self.act(self.one(h))) * 0.5
        return self.tail(h)


class Shuffled(nn.Module):
    """A tail that doubles the picture twice, as EDSR and RLFN do."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.wide = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.up = nn.Conv2d(16, 64, 3, padding=1)
        self.more, self.tail = nn.Conv2d(16, 12, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        h = F.leaky_relu(self.wide(h), 0.05)[:, :16] + h
        h = F.pixel_shuffle(self.up(h), 2)
        return self.tail(F.pixel_shuffle(self.more(h), 2))


class Gate(nn.Module):
    """x * sigmoid(conv(pooled and widened x)), as enhanced spatial attention of RLFN."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.one, self.down = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, 2)
        self.up, self.tail = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 3, 3, padding=1)
        self.act = nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.one(x))
        g = F.interpolate(F.max_pool2d(self.down(h), 3, 2), h.shape[2:], mode="bilinear")
        return self.tail(h * torch.sigmoid(self.up(g)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, padding=1)
        self.up, self.c = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.a(x))
        deep = F.relu(self.b(h))
        up = self.up(deep)[..., : h.shape[2], : h.shape[3]]
        return self.c(torch.cat([up, h[..., : up.shape[2], : up.shape[3]]], 1))


class Many(nn.Module):
    """Grouped, depthwise, dilated and strided convolutions, norms over pictures of any layout."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 24, 3, 2, 1)
        self.group, self.depth = (
            nn.Conv2d(24, 24, 3, padding=1, groups=4),
            nn.Conv2d(24, 24, 5, padding=4, dilation=2, groups=24),
        )
        self.norm, self.mix = nn.LayerNorm(24), nn.Linear(24, 48)
        self.back, self.prelu = nn.Linear(48, 24), nn.PReLU(24)
        self.tail = nn.Conv2d(24, 5, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.prelu(self.group(self.head(x)))
        y = self.norm(self.depth(h).permute(0, 2, 3, 1))
        y = self.back(F.gelu(self.mix(y))).permute(0, 3, 1, 2)
        return self.tail(h + y)


class Windows(nn.Module):
    """Blocks of (shifted) rectangular windows with a bias and a mask."""

    def __init__(self, window: tuple[int, int] = (4, 8), heads: int = 2, c: int = 16) -> None:
        super().__init__()
        self.window, self.heads = window, heads
        self.head, self.tail = nn.Conv2d(3, c, 3, padding=1), nn.Conv2d(c, 3, 3, padding=1)
        self.norms = nn.ModuleList([nn.LayerNorm(c) for _ in range(4)])
        self.qkv = nn.ModuleList([nn.Linear(c, 3 * c) for _ in range(2)])
        self.proj = nn.ModuleList([nn.Linear(c, c) for _ in range(2)])
        self.fc1 = nn.ModuleList([nn.Linear(c, 2 * c) for _ in range(2)])
        self.fc2 = nn.ModuleList([nn.Linear(2 * c, c) for _ in range(2)])
        n = window[0] * window[1]
        self.bias = nn.Parameter(torch.randn(2, heads, n, n) * 0.2)

    def cut(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        wh, ww = self.window
        x = x.view(b, h // wh, wh, w // ww, ww, c).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, wh * ww, c)

    def mask(self, h: int, w: int, shift: tuple[int, int]) -> Tensor:
        marks = torch.zeros(1, h, w, 1)
        for i, rows in enumerate((slice(0, -shift[0]), slice(-shift[0], None))):
            for j, columns in enumerate((slice(0, -shift[1]), slice(-shift[1], None))):
                marks[:, rows, columns] = 2 * i + j
        marks = self.cut(marks).squeeze(-1)
        return (marks[:, None] - marks[:, :, None]).ne(0).float() * -100

    def block(self, x: Tensor, i: int) -> Tensor:
        b, h, w, c = x.shape
        wh, ww = self.window
        shift = (wh // 2, ww // 2) if i else (0, 0)
        y = self.norms[2 * i](x)
        if i:
            y = torch.roll(y, (-shift[0], -shift[1]), (1, 2))
        y = self.cut(y)
        n, d = y.shape[1], c // self.heads
        q, k, v = self.qkv[i](y).view(-1, n, 3, self.heads, d).permute(2, 0, 3, 1, 4)
        logits = (q * d**-0.5) @ k.transpose(-2, -1) + self.bias[i]
        if i:
            mask = self.mask(h, w, shift)
            logits = logits.view(b, -1, self.heads, n, n) + mask[None, :, None]
            logits = logits.view(-1, self.heads, n, n)
        y = (logits.softmax(-1) @ v).transpose(1, 2).reshape(-1, n, c)
        y = self.proj[i](y).view(b, h // wh, w // ww, wh, ww, c)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        if i:
            y = torch.roll(y, shift, (1, 2))
        x = x + y
        return x + self.fc2[i](F.gelu(self.fc1[i](self.norms[2 * i + 1](x))))

    def forward(self, x: Tensor) -> Tensor:
        h = self.head(x)
        y = h.permute(0, 2, 3, 1).contiguous()
        y = self.block(self.block(y, 0), 1)
        return self.tail(h + y.permute(0, 3, 1, 2))


class Tokens(nn.Module):
    """Attention over tokens, heads in the batch or beside it, then an MLP."""

    def __init__(self, together: bool = False, c: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.together, self.heads = together, heads
        self.q, self.kv, self.out = nn.Linear(c, c), nn.Linear(c, 2 * c), nn.Linear(c, c)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.Linear(2 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        d = c // self.heads
        k, v = self.kv(x).chunk(2, -1)
        q, k, v = (t.view(b, n, self.heads, d).transpose(1, 2) for t in (self.q(x), k, v))
        if self.together:
            q, k, v = (t.reshape(b * self.heads, n, d) for t in (q, k, v))
            y = torch.bmm((torch.bmm(q, k.transpose(1, 2)) * d**-0.5).softmax(-1), v)
            y = y.view(b, self.heads, n, d)
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        x = self.out(y.transpose(1, 2).reshape(b, n, c)) + x
        return x + self.fc2(F.gelu(self.fc1(self.norm(x)), approximate="tanh"))


class Torchs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        y, weights = self.attention(x, x, x)
        return self.encoder(x + y), weights


class Lines(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(2, 16, 5, padding=2), nn.Conv1d(16, 16, 3, 2)
        self.act, self.norm = nn.ReLU(inplace=True), nn.BatchNorm1d(16)
        self.up = nn.ConvTranspose1d(16, 2, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.norm(self.act(self.two(self.act(self.one(x))))))


class Plain(nn.Module):
    """An MLP on rows, with ends that are read twice, and a step on all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(24, 48), nn.Linear(48, 24), nn.Linear(24, 8)
        self.gain = nn.Parameter(torch.rand(24) + 0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.one(x).relu()
        y = self.two(h) * self.gain + x
        y -= 0.25
        return self.three(y), h.mean(-1)


def pictures(n: int = 1, h: int = 24, w: int = 40, last: bool = False) -> Tensor:
    x = torch.rand(n, 3, h, w)
    return x.contiguous(memory_format=torch.channels_last) if last else x


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "residual": (Residual, pictures),
    "residual prelu": (lambda: Residual(nn.PReLU(16)), pictures),
    "residual leaky": (lambda: Residual(nn.LeakyReLU(0.1, inplace=True)), pictures),
    "residual silu": (lambda: Residual(nn.SiLU()), pictures),
    "residual hardswish": (lambda: Residual(nn.Hardswish()), pictures),
    "residual norm": (
        lambda: Residual(nn.Sequential(nn.GroupNorm(4, 16), nn.ReLU6(True))), pictures,
    ),
    "residual reflect": (lambda: Residual(padding_mode="reflect"), pictures),
    "residual of one channel": (lambda: Residual(channels=1), pictures),
    "residual of an odd size": (Residual, lambda: pictures(3, 37, 29)),
    "residual of rows": (Residual, lambda: pictures(2, 1, 70)),
    "residual of columns": (Residual, lambda: pictures(2, 70, 1)),
    "shuffled": (Shuffled, pictures),
    "shuffled of an odd size": (Shuffled, lambda: pictures(3, 19, 33)),
    "gate": (Gate, pictures),
    "gate in place": (lambda: Gate(True), lambda: pictures(2, 31, 37)),
    "u-net": (UNet, pictures),
    "u-net of an odd size": (UNet, lambda: pictures(3, 23, 25)),
    "many": (Many, pictures),
    "many of an odd size": (Many, lambda: pictures(3, 41, 35)),
    "windows": (Windows, pictures),
    "square windows": (lambda: Windows((8, 8), 4), lambda: pictures(3, 16, 24)),
    "windows of one head": (lambda: Windows((4, 4), 1), lambda: pictures(2, 20, 28)),
    "tokens": (Tokens, lambda: torch.randn(2, 50, 32)),
    "tokens of one row": (Tokens, lambda: torch.randn(1, 137, 32)),
    "tokens together": (lambda: Tokens(True), lambda: torch.randn(3, 49, 32)),
    "torch's own": (Torchs, lambda: torch.randn(2, 40, 32)),
    "lines": (Lines, lambda: torch.randn(2, 2, 301)),
    "rows": (Plain, lambda: torch.randn(5, 77, 24)),
    "few rows": (Plain, lambda: torch.randn(3, 24)),
    "a row": (Plain, lambda: torch.randn(24)),
}  # fmt: skip


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("recipe", ["minmax", "default"])
@pytest.mark.parametrize("name", NETS)
def test_a_program_gives_the_bits_of_the_model(
    lab: Any, name: str, recipe: str, last: bool
) -> None:
    build, make = NETS[name]

    def inputs() -> Any:
        x = make()
        return x.contiguous(memory_format=torch.channels_last) if last and x.dim() == 4 else x

    if last and make().dim() != 4:
        pytest.skip("no pictures")
    model = lab.pack(build(), inputs(), recipe=recipe)
    lab.law(model, [inputs(), inputs() - 0.3, inputs() * 3, torch.zeros_like(inputs()), inputs()])


@pytest.mark.parametrize("name", ["gate", "windows", "tokens", "many", "shuffled"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_at_any_number_of_threads_in_any_mode(
    lab: Any, name: str, threads: int, mode: Callable[[], Any]
) -> None:
    build, make = NETS[name]
    model = lab.pack(build(), make())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with mode():
            for _ in range(5):
                x = make()
                assert lab.equal(model(x), model.run_net(x))
    finally:
        torch.set_num_threads(before)
    assert lab.programs(model).steps()


@pytest.mark.parametrize("name", ["gate", "windows", "tokens", "many", "shuffled", "lines"])
def test_at_every_instruction_set(lab: Any, level: str, name: str) -> None:
    build, make = NETS[name]
    lab.law(lab.pack(build(), make()), [make(), make(), make()])


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("name", ["residual", "windows", "tokens"])
def test_at_every_width(lab: Any, name: str, bits: int) -> None:
    build, make = NETS[name]
    lab.law(lab.pack(build(), make(), bits=bits), [make(), make() - 0.5, make() * 9])


KNOWN: dict[str, dict[str, Any]] = {
    "edsr": {"num_feat": 16, "num_block": 2, "upscale": 2},
    "rlfn": {},
    "swinir": {},
    "dat": {},
}


def test_of_a_network_that_we_know(lab: Any, tiny_sr: Any) -> None:
    net = MODELS["edsr"].build(num_feat=16, num_block=2, upscale=2)
    steps = lab.law(lab.pack(net, pictures()), [pictures(), pictures(), pictures()])
    assert any("shuffle" in step for step in steps)


def test_sizes_in_turn(lab: Any) -> None:
    model = lab.pack(Gate(), pictures())
    sizes = [(1, 24, 40), (3, 24, 40), (1, 33, 17), (2, 40, 24)]
    for _ in range(4):
        for n, h, w in sizes:
            for last in (False, True) if n == 1 else (False,):
                x = pictures(n, h, w, last)
                with torch.no_grad():
                    assert lab.equal(model(x), model.run_net(x))
