"""Which sizes stay free in a file: hand-written attention, U-shapes, models that fix a size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import bitcompress
from bitcompress.backends.capture import captures
from bitcompress.backends.runner import FileModel, Told
from bitcompress.backends.session import ort_session
from bitcompress.backends.taps import Tap, paired
from bitcompress.blocks import BlockPolicy, insert_blocks, pack_blocks, prepare_binary, settle
from bitcompress.errors import CaptureError, GateError, ShapeError
from bitcompress.graph.intercept import Rewritten

pytestmark = pytest.mark.ort


def pixels(*shape: int) -> torch.Tensor:
    """Seeded pixels."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5))


class Attention(nn.Module):
    """Self-attention over the pixels of a picture, by plain products."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: (N, C, H, W) -> as x."""
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, 3, c, h * w).unbind(1)
        share = torch.softmax(q.transpose(-1, -2) @ k / math.sqrt(c), -1)
        return x + self.out((v @ share.transpose(-1, -2)).reshape(n, c, h, w))  # type: ignore[no-any-return]


class Shaped(nn.Module):
    """A U of two levels with a skip, attention below, a time, and odd numbers of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 19, 3, padding=1)
        self.time = nn.Linear(8, 19)
        self.down = nn.Conv2d(19, 27, 3, 2, 1)
        self.attention = Attention(27)
        self.up = nn.Conv2d(27 + 19, 19, 3, padding=1)
        self.last = nn.Conv2d(19, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Shapes: (N, 3, H, W), (N,) -> (N, 3, H, W)."""
        angle = t.float()[:, None] * torch.exp(-torch.arange(4) / 4)
        told = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        top = functional.silu(self.first(x) + told[:, :, None, None])
        low = self.attention(functional.silu(self.down(top)))
        grown = functional.interpolate(low, scale_factor=2.0, mode="nearest")
        return self.last(functional.silu(self.up(torch.cat([grown, top], 1))))  # type: ignore[no-any-return]


def shaped(kind: str, example: tuple[torch.Tensor, ...]) -> Rewritten:
    """The network on codes, or in blocks of one bit."""
    torch.manual_seed(0)
    net = Shaped().eval()
    if kind == "codes":
        return bitcompress.quantize(net, example, bits=4, recipe="minmax", data=[example]).model
    student = insert_blocks(prepare_binary(net, example, BlockPolicy(kind, min_channels=8)))
    settle(student, [example])
    pack_blocks(student)
    return student


@pytest.mark.parametrize("kind", ["codes", pytest.param("reactnet", marks=pytest.mark.slow)])
def test_attention_by_hand_leaves_sizes_and_batch_free(ort: Any, tmp_path: Path, kind: str) -> None:
    example = (pixels(1, 3, 16, 16), torch.tensor([37]))
    model = shaped(kind, example)
    said: list[str] = []
    report = bitcompress.export(model, tmp_path / "m.onnx", example, progress=said.append)
    assert report["sizes"]["step"] == 2 and report["sizes"]["batch"]
    assert not report["passed_over"]  # a size is run before time is spent on writing it down
    assert sum("translating" in stage for stage in said) == 1
    assert all(row["flipped_codes"] == 0 for row in report["whole"])
    session = ort_session(tmp_path / "m.onnx")
    x, t = pixels(3, 3, 20, 26), torch.tensor([1, 500, 999])
    made = session.run(None, {"input": x.numpy(), "input1": t.numpy()})[0]
    with torch.no_grad():
        truth = model(x, t)
    torch.testing.assert_close(torch.from_numpy(made), truth, rtol=1e-3, atol=1e-4)


class Fixed(nn.Module):
    """A layer over all pixels of one size; `alone` takes one sample only."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.score = nn.Linear(8 * 8 * 8, 5)
        self.alone = alone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: (N, 3, 8, 8) -> (N, 5), or (1, 3, 8, 8) -> (5,)."""
        y = self.body(x).relu()
        return self.score(y.reshape(-1) if self.alone else y.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("alone", [False, True])
def test_one_size_of_picture_may_still_be_any_number_of_them(ort: Any, alone: bool) -> None:
    torch.manual_seed(0)
    example = (pixels(1, 3, 8, 8),)
    net = Fixed(alone=alone).eval()
    model = bitcompress.quantize(net, example, bits=4, recipe="minmax", data=[example]).model
    said: list[str] = []
    found = next(iter(captures(model.eval(), example, said.append)))
    assert (found.sizes.step, found.sizes.batch) == (0, not alone)
    assert "weight takes 512" in found.sizes.reason


def test_a_file_of_one_oblong_size_takes_what_fits_into_it() -> None:
    def session(names: object, feed: dict[str, Any]) -> list[Any]:
        assert feed["input"].shape == (1, 3, 16, 24)
        return [np.repeat(np.repeat(feed["input"], 2, 2), 2, 3)]

    file = FileModel.__new__(FileModel)
    nn.Module.__init__(file)
    file.session = type("Session", (), {"run": staticmethod(session)})()
    file.told, file.names = Told(2, 1.0, 0, (16, 24)), ["input"]
    assert file.told.side == 16  # of the tiles that it is given
    for height, width in ((16, 24), (16, 16), (1, 1), (7, 5)):
        x = pixels(1, 3, height, width)
        assert torch.equal(file(x)[..., ::2, ::2], x)
    with pytest.raises(ShapeError, match="takes pictures up to 24x16"):
        file(pixels(1, 3, 17, 8))


def test_a_tiny_picture_is_continued_where_the_file_has_a_wider_border() -> None:
    def session(names: object, feed: dict[str, Any]) -> list[Any]:
        if min(feed["input"].shape[2:]) < 9:
            raise RuntimeError("Pad reflect requires a longer axis")
        return [np.repeat(np.repeat(feed["input"], 2, 2), 2, 3)]

    file = FileModel.__new__(FileModel)
    nn.Module.__init__(file)
    file.session = type("Session", (), {"run": staticmethod(session)})()
    file.told, file.names = Told(2, 1.0, 1), ["input"]
    for height, width in ((1, 1), (7, 50), (9, 9)):
        x = pixels(2, 3, height, width)
        made = file(x)
        assert made.shape == (2, 3, 2 * height, 2 * width) and torch.equal(made[..., ::2, ::2], x)
    with pytest.raises(ShapeError, match="does not take .* Pad reflect"):
        file(torch.zeros(0, 3, 1, 1))
    file.told = Told(None, 1.0, 1)  # what enlarges nothing is given what it is given
    with pytest.raises(ShapeError, match="does not take"):
        file(pixels(1, 3, 1, 1))


class Deciding(nn.Module):
    """A layer behind which the forward looks at a number."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: (N, 3, H, W) -> (N, 8, H, W)."""
        y: torch.Tensor = self.body(x)
        return y * 2 if float(y.mean()) > 0 else y


class Inverting(nn.Module):
    """An operator that torch takes apart into one that no file has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: (N, 3, 8, 8) -> as x."""
        return torch.linalg.inv(x + 9 * torch.eye(8))


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (Deciding, r"1 of the model cannot be written down: its forward decides by the numbers"),
        (Inverting, r"translate: aten\.linalg_inv_ex of 1 has no form in ONNX"),
    ],
)
def test_what_no_file_holds_is_named_with_its_module(
    ort: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], part: Any, says: str
) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), part()).eval(), pixels(1, 3, 8, 8)
    model = bitcompress.quantize(net, (x,), bits=4, recipe="minmax", data=[(x,)]).model
    capfd.readouterr()
    with pytest.raises((CaptureError, GateError), match=says):
        bitcompress.export(model, tmp_path, (x,))
    assert not capfd.readouterr().err and not list(tmp_path.iterdir())


class Node:
    """What a file calls a layer."""

    def __init__(self, name: str) -> None:
        self.name = name


def test_layers_pair_with_what_they_saw_by_name_and_else_by_order() -> None:
    x = torch.zeros(1)
    taps = [Tap("linear", name, x) for name in ("a", "b", "a")]
    layers = [Node("b"), Node("a"), Node("a:2")]
    assert [number for number, _ in paired(layers, taps)] == [1, 0, 2]
    assert [number for number, _ in paired([Node("c")] * 3, taps)] == [0, 1, 2]
    assert paired(layers[:2], taps) == []
