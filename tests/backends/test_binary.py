"""Binary networks as files: statistics of pictures, and blocks that know the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import bitcompress
from bitcompress.backends.session import ort_session
from bitcompress.blocks import BlockPolicy, insert_blocks, pack_blocks, prepare_binary, settle
from bitcompress.graph.intercept import Rewritten
from bitcompress.layers.binary import PackedBlock
from bitcompress.layers.binary.packed import Scaling
from bitcompress.models.targets import build_target

pytestmark = pytest.mark.ort


class Residual(nn.Module):
    """A small network whose middle becomes a block."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.middle = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.last = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: (N, 3, H, W) -> as x."""
        y = self.first(x).relu()
        y = y + self.norm(self.middle(y)).relu()
        return self.last(y)  # type: ignore[no-any-return]


def packed(net: nn.Module, example: tuple[torch.Tensor, ...], policy: BlockPolicy) -> Rewritten:
    """A network of blocks on bits, settled on the example."""
    student = insert_blocks(prepare_binary(net.eval(), example, policy))
    settle(student, [example])
    pack_blocks(student)
    return student


def checked(report: dict[str, Any]) -> dict[str, int]:
    """How many nodes of each operator a report tells of, after what every report must say."""
    assert all(row["unequal"] == 0 for row in report["operators"])
    assert report["bytes"]["rest_bytes_a_node"] <= 200
    assert all(row["flipped_codes"] == 0 and row["psnr_db"] > 100 for row in report["whole"])
    assert len({tuple(row["input"]) for row in report["whole"]}) == 2
    return {row["operator"]: row["nodes"] for row in report["operators"]}


def test_statistics_of_each_picture_are_operators(ort: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 24, 24)
    student = packed(Residual(), (x,), BlockPolicy("bidense"))
    report = bitcompress.export(student, tmp_path / "m.onnx", (x,))
    assert checked(report) == {"PixelMean": 2, "BitConv2d": 1}
    assert report["sizes"]["step"] == 1 and report["nodes"] < 60


class Words(nn.Module):
    """Layers of more than a word of channels, and of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 40, 3, padding=1)
        self.grow = nn.Conv2d(40, 70, 3, padding=1)
        self.fall = nn.Conv2d(70, 40, 1)
        self.mix = nn.Linear(40, 40)
        self.last = nn.Conv2d(40, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: (N, 3, H, W) -> as x."""
        y = self.first(x).relu()
        y = y + self.fall(self.grow(y).relu())
        y = y + self.mix(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.last(y)  # type: ignore[no-any-return]


def test_a_scale_for_each_word_of_channels(ort: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 16, 16)
    policy = BlockPolicy("bidense", dab_scale="group", min_channels=16)
    student = packed(Words(), (x,), policy)
    blocks = [m for m in student.modules() if isinstance(m, PackedBlock)]
    words = [m.threshold for m in blocks if m.scaling is Scaling.WORD]
    assert len(words) == 2
    for threshold in words:  # fresh scales are alike for all words
        assert threshold.exponent is not None
        threshold.exponent.uniform_(-1, 1)
    report = bitcompress.export(student, tmp_path / "m.onnx", (x,))
    assert checked(report)["BitConv2d"] == 2 + 3 + 1  # 40 and 70 channels in words of 32
    stored = sum(block.codes.numel() for block in blocks)
    assert (
        report["initializer_bytes"]
        < stored + 4 * sum(p.numel() for p in student.parameters()) + 4000
    )


@pytest.mark.slow
def test_a_network_of_two_pictures_and_a_timestep(ort: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build_target("bidiffsr-tiny", {"spread": 0.05})
    example = (torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), torch.tensor([700]))
    policy = BlockPolicy(
        "bidiffsr", time_groups=5, min_channels=8, keep=net.float_layers, start="scratch"
    )  # type: ignore[arg-type]
    student = packed(net, example, policy)
    spread = torch.Generator().manual_seed(3)
    for table in student.buffers():
        if table.dim() == 2 and len(table) == 5:  # fresh tables are alike at all times
            table.add_(torch.randn(table.shape, generator=spread), alpha=0.1)
    named = dict(zip(("input", "input1", "t"), example, strict=True))
    report = bitcompress.export(student, tmp_path / "m.onnx", named)
    assert {"BitConv2d", "GroupNorm", "Silu"} <= set(checked(report))
    assert report["sizes"]["step"] == 2 and report["bytes"]["kept"], report["bytes"]
    session = ort_session(tmp_path / "m.onnx")
    made = []
    for times in ([3, 3], [3, 1999]):
        feed = (torch.rand(2, 3, 10, 14, generator=spread.manual_seed(1)),) * 2
        t = torch.tensor(times)
        with torch.no_grad():
            truth = student(*feed, t)
        names = {"input": feed[0].numpy(), "input1": feed[1].numpy(), "t": t.numpy()}
        made.append(torch.from_numpy(session.run(None, names)[0]))
        torch.testing.assert_close(made[-1], truth, rtol=1e-4, atol=1e-4)
    assert torch.equal(made[0][0], made[1][0])  # a sample has its own time
    assert not torch.equal(made[0][1], made[1][1])


class Noisy(nn.Module):
    """A network that is told a noise level, a real number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Shapes: (N, 3, H, W), (N,) -> (N, 3, H, W)."""
        y = self.first(x / (1 + sigma[:, None, None, None])).relu()
        return self.last(y + self.middle(y))  # type: ignore[no-any-return]


def test_blocks_that_know_a_noise_level(ort: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    example = (torch.rand(1, 3, 12, 12), torch.tensor([0.7]))
    policy = BlockPolicy("bidiffsr", time_groups=4, time_span=(0.01, 100.0), min_channels=8)
    student = packed(Noisy(), example, policy)
    spread = torch.Generator().manual_seed(3)
    tables = [table for table in student.buffers() if table.dim() == 2 and len(table) == 4]
    for table in tables:  # fresh tables are alike at all levels
        table.add_(torch.randn(table.shape, generator=spread), alpha=0.3)
    assert tables
    named = dict(zip(("input", "sigma"), example, strict=True))
    checked(bitcompress.export(student, tmp_path / "m.onnx", named))
    session = ort_session(tmp_path / "m.onnx")
    x = torch.rand(1, 3, 10, 14, generator=spread)
    made = []
    for level in (0.001, 0.05, 0.5, 5.0, 50.0, 1000.0):  # beyond the span they are of its ends
        sigma = torch.tensor([level])
        with torch.no_grad():
            truth = student(x, sigma)
        feed = {"input": x.numpy(), "sigma": sigma.numpy()}
        made.append(torch.from_numpy(session.run(None, feed)[0]))
        torch.testing.assert_close(made[-1], truth, rtol=1e-4, atol=1e-4)
    assert not torch.equal(made[1], made[2])


def test_blocks_of_tokens_have_slopes_for_the_last_axis(ort: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.Linear(16, 24), nn.Linear(24, 5))
    x = torch.randn(1, 7, 12)
    student = packed(net, (x,), BlockPolicy("reactnet", min_channels=8))
    bitcompress.export(student, tmp_path / "m.onnx", (x,))
    made = ort_session(tmp_path / "m.onnx").run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(made), student(x), rtol=1e-5, atol=1e-5)
