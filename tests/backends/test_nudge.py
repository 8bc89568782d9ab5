"""Whole zero points: the nearest grids of their kind, and what portable files make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bitcompress
from bitcompress.backends.nudge import nudge
from bitcompress.backends.sizes import FIXED, sizes_of
from bitcompress.errors import UsageError
from bitcompress.graph.intercept import Rewritten


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grid_with_a_whole_zero_point_stays(bits: int) -> None:
    scale, zero = np.array([0.25, 0.5], np.float32), np.array([0, (1 << bits) - 1])
    found = nudge(scale, -scale * zero, bits)
    assert found is not None and found.moved < 1e-6
    assert np.array_equal(found.zero, zero) and np.array_equal(found.scale, scale)


def test_no_other_grid_with_a_whole_zero_point_lies_nearer() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scale = np.float32(rng.uniform(0.1, 2))
        offset = scale * np.float32(rng.integers(-15, 1) + rng.uniform(-0.14, 0.14))
        counts = rng.integers(1, 50, (1, 16))
        found = nudge(scale, offset, 4, counts)
        assert found is not None and found.scale.shape == () == found.zero.shape
        share = counts[0] / counts.sum()
        levels = np.arange(16)

        def apart(s: Any, z: Any, share: Any = share, grid: Any = offset + scale * levels) -> float:
            return float(np.sqrt((share * (grid - s * (np.arange(16) - z)) ** 2).sum()))

        best = min(apart(scale * f, z) for z in range(16) for f in np.linspace(0.8, 1.2, 81))
        assert apart(found.scale, int(found.zero)) <= best + 1e-6
        assert found.moved == pytest.approx(apart(found.scale, int(found.zero)) / scale, abs=1e-5)


def test_grids_that_would_move_far_are_left() -> None:
    assert nudge(1.0, -1.5, 2) is None  # symmetric levels of two bits are halves
    assert nudge(1.0, 40.0, 4) is None and nudge(1.0, -40.0, 4) is None  # zero is no code of it
    assert nudge(0.0, 1.0, 2) is None  # a step has no levels


@pytest.fixture(scope="module")
def model() -> tuple[Rewritten, tuple[torch.Tensor]]:
    """A small network on codes of four bits behind a ReLU and of eight elsewhere."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1),
    ).eval()  # fmt: skip
    x = (torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1)),)
    return bitcompress.quantize(net, x, bits=4, recipe="minmax", data=[x]).model, x


@pytest.mark.ort
def test_a_nudged_file_says_all_in_quantize_and_dequantize(
    ort: Any, model: tuple[Rewritten, tuple[torch.Tensor]], tmp_path: Path
) -> None:
    import onnx

    packed, x = model
    reports, counts = {}, {}
    for name, wanted in (("exact", False), ("nudged", True)):
        place = tmp_path / f"{name}.onnx"
        reports[name] = bitcompress.export(packed, place, x, portable=True, nudge=wanted)
        kinds = [node.op_type for node in onnx.load(str(place)).graph.node]
        counts[name] = {kind: kinds.count(kind) for kind in set(kinds)}
    assert counts["exact"]["Add"] > 0 and counts["exact"]["Sub"] > 0
    told = reports["nudged"]["nudged"]
    assert told["nudged"] + told["kept"] == 6 and told["nudged"] >= 4
    assert 0 < told["most_steps"] <= 0.5 and len(told["kept_layers"]) <= told["kept"]
    assert counts["nudged"].get("Add", 0) == told["kept"]  # and nothing beside where they are whole
    assert counts["nudged"]["QuantizeLinear"] == 3 and counts["nudged"]["DequantizeLinear"] == 6
    worst = min(row["psnr_db"] for row in reports["nudged"]["whole"])
    assert f"that costs: {worst:.1f} dB from packed" in reports["nudged"]["notes"][-1]
    assert "nudged" not in reports["exact"]
    session = ort.InferenceSession(tmp_path / "nudged.onnx")  # without a library of ours
    made = torch.from_numpy(session.run(None, {"input": x[0].numpy()})[0])
    with torch.no_grad():
        truth = packed(*x)
    assert 10 * torch.log10(truth.abs().max() ** 2 / (made - truth).pow(2).mean()) > 25


def test_packed_files_are_not_nudged(
    model: tuple[Rewritten, tuple[torch.Tensor]], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="nudge is for portable files"):
        bitcompress.export(model[0], tmp_path, model[1], nudge=True)


def test_sizes_are_judged_without_what_every_file_has(
    model: tuple[Rewritten, tuple[torch.Tensor]],
) -> None:
    stored = sizes_of(model[0], None, 0, 0, 1)["packed_bytes"]
    most = int(1.1 * stored) + FIXED
    assert sizes_of(model[0], None, most, most + FIXED + 5 * 200, 5)["kept"]
    large = sizes_of(model[0], None, most + 2, most + FIXED, 5)
    assert not large["kept"] and "initialisers are" in large["said"]
    long = sizes_of(model[0], None, 100, 101 + FIXED + 5 * 200, 5)
    assert not long["kept"] and "bytes a node, where 200 are aimed at" in long["said"]
