"""Whole models of each kind as files: transformers, blocks of one bit, standard operators alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bitcompress
from bitcompress.backends.runner import FileModel
from bitcompress.backends.session import ort_session
from bitcompress.blocks import BlockPolicy, insert_blocks, pack_blocks, prepare_binary, settle
from bitcompress.models import MODELS

pytestmark = [pytest.mark.ort, pytest.mark.slow]


def packed(net: nn.Module, name: str, place: Path) -> Path:
    """A packed folder of an untrained network."""
    torch.save({"params": net.state_dict()}, place / f"{name}.pth")
    result = bitcompress.quantize(place / f"{name}.pth", bits=2, recipe="minmax")
    bitcompress.save(result, place / name)
    return place / name


@pytest.mark.parametrize("portable", [False, True])
def test_a_window_transformer_takes_pictures_of_any_size(
    ort: Any, tmp_path: Path, portable: bool
) -> None:
    torch.manual_seed(0)
    net = MODELS["swinir"].build(16, [2], [2], 8, 2.0, 2, upsampler="pixelshuffledirect")
    folder = packed(net, "swinir", tmp_path)
    loaded = bitcompress.load(folder)
    report = bitcompress.export(loaded, folder, portable=portable)
    assert report["sizes"]["step"] == 1
    operators = {row["operator"]: row for row in report["operators"]}
    if portable:
        assert not operators and min(row["psnr_db"] for row in report["whole"]) > 40
        return
    assert {"BitWindowsCodes", "BitLinearCodes", "BitLinear", "BitConv2d"} <= set(operators)
    assert "BitAttention" not in operators  # both, the shifted one too, are in windows
    assert all(row["flipped_codes"] == 0 for row in report["whole"])
    assert all(row["unequal"] == 0 for row in operators.values())
    assert report["bytes"]["kept"], report["bytes"]
    file = FileModel(folder / "model.onnx")
    for size in [(16, 24), (19, 33), (40, 8)]:
        x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            assert torch.equal(file(x), loaded.model(x)), size


class Residual(nn.Module):
    """A small network whose middle becomes blocks of one bit."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.middle = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: (N, 3, H, W) -> as x."""
        y = self.first(x).relu()
        y = y + self.norm(self.middle(y)).relu()
        return self.last(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["reactnet", "bireal"])
def test_blocks_of_one_bit(ort: Any, tmp_path: Path, method: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 24, 24)
    prepared = prepare_binary(Residual().eval(), (x,), BlockPolicy(method, min_channels=16))
    student = insert_blocks(prepared)
    settle(student, [(x,)])
    pack_blocks(student)
    report = bitcompress.export(student, tmp_path / "m.onnx", (x,))
    (row,) = report["operators"]
    assert row["operator"] == "BitConv2d" and row["unequal"] == 0
    assert ort_session(tmp_path / "m.onnx").run(None, {"input": x.numpy()})[0].shape == x.shape
