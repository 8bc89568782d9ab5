"""Sizes at which a model takes another way than the one in its file are refused, not answered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitcompress
from bitcompress.backends.guards import (
    LONGEST,
    MOST,
    RUNS,
    conditions_of,
    first_broken,
    holds,
    proved,
    read_conditions,
)
from bitcompress.backends.runner import FileModel
from bitcompress.errors import LoadError, ShapeError

SHAPES = {"input": (1, 3, 9, 20), "t": (2,)}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("min(input[3], input[2]) > 8", True),
        ("input[2] * input[3] <= 179", False),
        ("8 < input[2] < 10", True),
        ("input[3] % 4 == 0 and not input[2] == 8", True),
        ("input[2] // 2 == 4 or input[3] != 20", True),
        ("-input[2] + 2 * max(input[2], t[0]) >= 9", True),
    ],
)
def test_conditions_are_arithmetic_of_sizes(text: str, wanted: bool) -> None:
    assert holds(text, SHAPES) is wanted


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "input", "input[9] > 1", "other[0] > 1",
        "input[2].x > 1",
        "input[2] ** 9999 > 1", "open('x')", "min(input[2], key=max) > 1", "input[2] / 0 > 1",
        "lambda: 1", "[1][0]", "input[t[0]] > 1", "1 >", "", "'a' > 'b'", "min()", "(" * 400,
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(LoadError, match="no condition of sizes"):
        holds(text, SHAPES)


@pytest.mark.parametrize(
    "value", ["text", [1], ["input[2] > " + "1" * LONGEST], ["input[2] > 1"] * (MOST + 1), ["open"]]
)
def test_damaged_conditions_of_a_file_are_refused(value: Any) -> None:
    with pytest.raises(LoadError, match="damaged"):
        read_conditions(value, SHAPES)


def test_what_a_trial_does_not_meet_or_nobody_can_read_is_left_out() -> None:
    codes = [
        "L['inputs'][0].size()[2] > 8", "L['inputs'][0].size()[3] < 20",
        "L['inputs'][1].size()[0] >= 2", "L['inputs'][0].stride()[1] == 1",
        "L['inputs'][0].size()[2] > 8",
    ]  # fmt: skip
    program = SimpleNamespace(_guards_code=codes)
    found = conditions_of(program, ("input", "t"), [SHAPES])
    assert found == ("input[2] > 8", "t[0] >= 2")
    assert first_broken(found, SHAPES) == ""
    assert first_broken(found, SHAPES | {"t": (1,)}) == "t[0] >= 2"
    assert conditions_of(SimpleNamespace(), ("input",), [SHAPES]) == ()


def test_conditions_on_ways_that_come_to_the_same_are_dropped() -> None:
    x = torch.rand(2, 3, 32, 41)
    seen: list[tuple[int, ...]] = []

    def agrees(named: Mapping[str, Tensor]) -> bool | None:
        assert named["t"].shape == (1,) and len(named["input"]) == 1
        height, width = named["input"].shape[2:]
        seen.append((height, width))
        if height == 9:
            return None  # not a size of the model
        return min(height, width) > 16

    asked = ("min(input[2], input[3]) > 16", "input[2] % 8 == 0", "input[3] < 5000")
    inputs = {"input": x, "t": torch.tensor([3, 4])}
    left = proved(asked, inputs, 1, agrees)
    assert left == ("min(input[2], input[3]) > 16", "input[3] < 5000")
    assert seen and len(seen) <= RUNS and len(set(seen)) == len(seen)
    assert proved(("input[2] % 8 == 0",), inputs, 8, agrees) == ("input[2] % 8 == 0",)


class Chooses(nn.Module):
    """Another way for small pictures, and for large ones."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.more = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, 3, H, W) -> (N, 8, H, W)."""
        height, width = x.shape[2:]
        y: Tensor = self.body(x).relu()
        if min(height, width) > 8:
            y = self.more(y)
        return y * 0.5 if height * width > 90_000 else y


@pytest.mark.ort
def test_a_file_answers_only_where_its_way_is_the_models(ort: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = (torch.rand(1, 3, 24, 32),)
    done = bitcompress.quantize(
        Chooses().eval(), example, bits=4, recipe="minmax", data=[example],
        overrides={"protect.float_share": 0.0},
    )  # fmt: skip
    report = bitcompress.export(done.model, tmp_path, example)
    asked = report["sizes"]["holds"]
    assert any("> 8" in text for text in asked) and any("90000" in text for text in asked)
    assert json.loads((tmp_path / "model.onnx.json").read_text())["sizes"]["holds"] == asked
    file = FileModel(tmp_path / "model.onnx")
    for height, width in ((9, 9), (40, 17), (300, 300)):
        x = torch.rand(1, 3, height, width)
        with torch.no_grad():
            assert (file(x) - done.model(x)).abs().max() < 1e-4
    for height, width in ((8, 40), (300, 301)):
        with pytest.raises(ShapeError, match="written for sizes where .*another way"):
            file(torch.rand(1, 3, height, width))
