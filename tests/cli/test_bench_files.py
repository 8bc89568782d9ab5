"""Tests of `bitcompress bench model` on exported files: beside a folder, alone, and damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import bitcompress
from bitcompress.bench import exported, graphs
from bitcompress.cli import bench_model, main
from bitcompress.models import MODELS

Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The float model is not exported: that has its own tests, and takes long."""
    monkeypatch.setattr(exported, "PACKAGES", ("a package that nobody has",))


@pytest.fixture(scope="module")
def files(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packed folder with its exported file, and a portable one by itself."""
    missing = graphs.missing("onnx", "onnxruntime", "onnxscript")
    if missing:
        pytest.skip(missing)
    place = tmp_path_factory.mktemp("files")
    shutil.copytree(packed, place / "out")
    for words in (("-o", place / "out"), ("--portable", "-o", place / "alone.onnx")):
        done = CliRunner().invoke(main, ["export", str(packed), "--to", "onnx", *map(str, words)])
        assert done.exit_code == 0, done.output
    return place


@pytest.mark.ort
def test_a_file_beside_its_folder(cli: Cli, files: Path, tmp_path: Path) -> None:
    words = ("--side", "16", "--repeats", "1", "--limit", "60", "--json", "-o", tmp_path)
    done = cli("bench", "model", files / "out" / "model.onnx", *words)
    assert done.exit_code == 0, done.output
    assert "note: no --float: " in done.stderr
    report = json.loads(done.stdout)
    (row,) = report["rows"]
    assert row["model"] == "edsr x2 (model.onnx)" and row["input"] == [[1, 3, 16, 16]]
    assert (row["weight_bits"], row["act_bits"]) == (4, 4)
    assert row["ratio_float"] > 0 and row["float_ms"]["torch"] > 0 and row["rss_mb"] > 0
    assert row["ways_ms"]["packed_torch/folder"] > 0
    assert row["psnr_to_folder_db"] is None, "infinite: the same bits"
    markdown = (tmp_path / "model.md").read_text()
    assert "## The folders behind the files" in markdown and "inf dB from the file" in markdown


@pytest.mark.ort
def test_a_file_alone_says_what_is_missing(
    cli: Cli, files: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_model, "measure_alone", lambda *_: ([], "not in this test"))
    words = ("bench", "model", files / "alone.onnx", "--side", "16", "--repeats", "1", "--json")
    done = cli(*words)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["rows"]
    assert row["ms"] > 0 and row["ratio_float"] is None
    assert (row["weight_bits"], row["act_bits"]) == (4, 4), "as the standard operators say"
    for column in ("torch_fp32", "ort_fp32", "ort_int8", "torch_bf16", "float_rss_mb"):
        assert "is no packed folder that the file came from" in row["absent"][column]
    done = cli(*words, "--float", checkpoint)
    (row,) = json.loads(done.stdout)["rows"]
    assert row["ratio_float"] > 0 and row["psnr_to_float_db"]["packed"] > 0


@pytest.mark.ort
def test_a_folder_of_another_model_is_told(
    cli: Cli, files: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_model, "measure_alone", lambda *_: ([], "not in this test"))
    shutil.copytree(packed, tmp_path / "out")
    net = MODELS["edsr"].build(num_feat=8, num_block=1, upscale=2)
    result = bitcompress.quantize(net.eval(), torch.rand(1, 3, 16, 16), bits=4, recipe="minmax")
    bitcompress.export(result.model, tmp_path / "out" / "model.onnx", torch.rand(1, 3, 16, 16))
    words = ("--side", "16", "--repeats", "1", "--json")
    done = cli("bench", "model", tmp_path / "out" / "model.onnx", *words)
    assert done.exit_code == 0, done.output
    assert "note: packed_torch is n/a: the folder beside the file holds another" in done.stderr


@pytest.mark.ort
@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "absent"])
def test_damaged_files_are_refused(cli: Cli, files: Path, tmp_path: Path, damage: str) -> None:
    data = bytearray((files / "out" / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    made = {"cut": bytes(data[:-300]), "changed": bytes(data), "empty": b""}
    if damage in made:
        (tmp_path / "model.onnx").write_bytes(made[damage])
    done = cli("bench", "model", tmp_path / "model.onnx", "--side", "16")
    assert done.exit_code == 3, done.output
    assert len(done.stderr.strip().splitlines()) == 1 and "model.onnx" in done.stderr
