"""Tests of report.json and report.md: nothing promised is missing, no layer is passed over."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bitcompress import api, native
from bitcompress.data.folders import open_pictures
from bitcompress.data.images import write_image
from bitcompress.measure.markdown import write_markdown
from bitcompress.measure.report import SCHEMA_VERSION, problems

# What was promised to those who read report.json by program.
PROMISED = {
    "size": "float_bytes packed_bytes ratio paper_ratio paper_ops_ratio",
    "speed": "float_ms packed_ms ratio threads input load",
    "capture": "tier coverage",
    "bits": "weights_mean activations_mean",
    "parity": "psnr_db changed_share",
}
KEYS = [f"{part}.{key}" for part, keys in PROMISED.items() for key in keys.split()]
KEYS += ["seed", "schema_version", "recipe", "bits_asked"]
OF_SETS = {
    "float_psnr_y", "packed_psnr_y", "drop_db", "float_ssim_y", "packed_ssim_y", "bicubic_psnr_y",
    "count", "skipped", "kind",
}  # fmt: skip
OF_LAYERS = {
    "name", "op", "weight_bits", "act_bits", "state", "reason", "sqnr_db", "stored_bytes",
}  # fmt: skip
STAGES = ["load", "capture", "calibrate", "train", "pack", "measure"]


@pytest.fixture(scope="module")
def result(tiny_sr: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Result:
    folder = tmp_path_factory.mktemp("scored")
    noise = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    write_image(folder / "a|b.png", noise)
    (folder / "broken.png").write_bytes(b"no picture")
    made = api.quantize(tiny_sr, bits=3, quick=True, overrides={"train.quick_steps": 2})
    api.measure(made, [open_pictures(folder, scale=2)])
    return made


@pytest.fixture
def report(result: api.Result) -> dict[str, Any]:
    return deepcopy(result.report)


def look_up(report: Any, key: str) -> Any:
    for part in key.split("."):
        report = report[part]
    return report


@pytest.mark.parametrize("key", KEYS)
def test_promised_keys_are_there(report: dict[str, Any], key: str) -> None:
    assert look_up(report, key) is not None


def test_promised_keys_of_sets_layers_and_stages(report: dict[str, Any]) -> None:
    (figures,) = report["quality"].values()
    assert set(figures) >= OF_SETS
    for row in report["layers"]:
        assert set(row) >= OF_LAYERS
    assert [row["stage"] for row in report["stages"]] == STAGES
    assert all(row["seconds"] >= 0 and row["peak_rss_mb"] > 1 for row in report["stages"])


def test_it_is_whole_versioned_and_strict_json(report: dict[str, Any]) -> None:
    assert problems(report) == [] and report["schema_version"] == SCHEMA_VERSION
    shown = json.dumps(report, default=str)
    assert json.loads(shown)["layers"] == report["layers"]


@pytest.mark.parametrize("key", KEYS)
def test_what_is_missing_is_named(report: dict[str, Any], key: str) -> None:
    *path, last = key.split(".")
    del (look_up(report, ".".join(path)) if path else report)[last]
    assert problems(report) == [key]


def test_missing_keys_of_rows_and_other_versions_are_named(report: dict[str, Any]) -> None:
    del report["layers"][1]["reason"], report["stages"][0]["seconds"], report["versions"]
    report["schema_version"] = 99
    assert set(problems(report)) == {
        "layers.1.reason", "stages.0.seconds", "versions", "schema_version 99 is not 1"
    }  # fmt: skip
    assert len(problems({})) > 10


def test_figures_agree_with_one_another(result: api.Result, report: dict[str, Any]) -> None:
    size, rows = report["size"], report["layers"]
    real = sum(p.numel() for p in result.float_model.parameters())
    assert size["float_bytes"] == 4 * real == 4 * sum(row["params"] for row in rows)
    assert size["ratio"] == pytest.approx(size["float_bytes"] / size["packed_bytes"])
    assert size["packed_bytes"] > sum(row["stored_bytes"] for row in rows)
    assert report["states"]["packed"] == sum(row["state"] == "packed" for row in rows)
    work = sum(row["macs"] for row in rows)
    packed = sum(row["macs"] for row in rows if row["state"] == "packed")
    assert report["capture"]["coverage"] == pytest.approx(packed / work)
    mean = sum(row["macs"] * row["weight_bits"] for row in rows) / work
    assert report["bits"]["weights_mean"] == pytest.approx(mean)


def test_the_size_is_what_a_save_writes(result: api.Result, tmp_path: Path) -> None:
    api.save(result, tmp_path / "out")
    written = {file.name: file.stat().st_size for file in (tmp_path / "out").iterdir()}
    needed = written["model.safetensors"] + written["manifest.json"]
    assert result.report["size"]["packed_bytes"] == pytest.approx(needed, abs=600)
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert problems(stored) == [] and stored["size"] == result.report["size"]


def rows_of(page: str, heading: str) -> Iterator[list[str]]:
    part = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    for line in part.splitlines():
        if line.startswith("|") and not set(line) <= set("|- "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_page_names_every_layer_and_why_it_is_wide(report: dict[str, Any]) -> None:
    page = write_markdown(report)
    _, *rows = rows_of(page, "Layers")
    assert [row[0] for row in rows] == [row["name"] for row in report["layers"]]
    assert all(len(row) == 8 for row in rows)
    wide = [row for row in report["layers"] if row["state"] == "float"]
    left = page.split("## What was not brought to 3 bits")[1].split("## ")[0]
    assert len(wide) == 2 and all(row["reason"] for row in wide)
    for row in wide:
        assert f"`{row['name']}`" in left and row["reason"] in left
        shown = next(cells for cells in rows if cells[0] == row["name"])
        assert shown[4] == "float" and shown[7] == row["reason"]


def test_layers_kept_wider_than_asked_are_named_too(report: dict[str, Any]) -> None:
    row = next(row for row in report["layers"] if row["state"] == "packed")
    row["weight_bits"] = row["act_bits"] = 8
    row["reason"] = "bottleneck: kept"
    left = write_markdown(report).split("## What was not brought")[1].split("## ")[0]
    assert f"packed at 8 bits: `{row['name']}`: bottleneck: kept" in left


def test_the_page_tells_sizes_pictures_and_what_was_left_out(report: dict[str, Any]) -> None:
    page = write_markdown(report)
    assert page.startswith("# EDSR at 3 bits\n")
    assert f"{report['size']['packed_bytes']:,}" in page and "which measures nothing" in page
    assert "left out of " in page and "broken.png" in page and "nan" not in page.lower().split()
    _, scores = rows_of(page, "Quality")
    (figures,) = report["quality"].values()
    assert scores[4] == f"{figures['packed_psnr_y']:.2f}" and scores[1] == "1"
    assert "None" not in page


def test_a_slower_model_is_called_slower(report: dict[str, Any]) -> None:
    report["speed"]["ratio"] = 0.5
    assert "SLOWER" in write_markdown(report)
    report["speed"]["ratio"] = 2.0
    assert "SLOWER" not in write_markdown(report)


def test_a_report_before_measuring_makes_a_page(report: dict[str, Any]) -> None:
    report["quality"], report["speed"] = {}, {}
    page = write_markdown(report)
    assert "Not measured: there was no picture to score" in page and "Not measured.\n" in page


def test_names_with_bars_do_not_break_tables(report: dict[str, Any]) -> None:
    report["layers"][0]["reason"] = "a|b\nc"
    _, *rows = rows_of(write_markdown(report), "Layers")
    assert rows[0][7] == "a\\|b c" and all(len(row) == 8 for row in rows)


def test_what_was_fused_and_what_was_not_is_told() -> None:
    class Peeking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            for clip in (False, True):
                logits = q @ k.mT
                logits = logits.clamp(max=9.0) if clip else logits
                v = logits.softmax(-1) @ v
            made: torch.Tensor = self.out(v)
            return made

    torch.manual_seed(0)
    x = torch.randn(2, 40, 8)
    made = api.quantize(Peeking().eval(), x, bits=8, data=[x])
    told = made.report["fusions"]
    if native.kernels() is not None:
        assert (told["fused"], told["refusals"]) == (1, {"clamp": 1})
        example = {"input": [[2, 40, 8]], "threads": 1, "repeats": 1, "load": 0.0}
        page = write_markdown({**made.report, "speed": {**example, "packed_ms": 1.0}})
        assert "in one pass: 1. Others ran one product after the other" in page
        assert "read by `clamp` (1)." in page


def test_the_program_of_the_example_is_told() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 8)
    made = api.quantize(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), x, bits=8,
                        data=[x], overrides={"train.method": "none"})  # fmt: skip
    told = made.report["program"]
    if native.kernels() is None:
        assert told["steps"] == 0 and told["reasons"] == {native.why_not(): 3}
    else:
        assert told["native"] >= 2 and told["steps"] >= told["native"]
        assert told["refusals"] == [] and told["reasons"] == {}
