"""Tests of `bitcompress bench`: what is on stdout, what is written, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from bitcompress import native
from bitcompress.bench import cases, graphs, peaks
from bitcompress.bench.cases import Case

Cli = Callable[..., Result]
TINY = (
    Case("linear", 2, 2, (7, 6, 5)), Case("linear_codes", 2, 2, (7, 6, 5)),
    Case("encode", 2, 2, (6, 8)),
)  # fmt: skip
needs_native = pytest.mark.skipif(
    native.kernels() is None, reason=f"no native kernels: {native.why_not()}"
)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small cases, short loops, no ONNX Runtime."""
    monkeypatch.setattr(cases.select, "__defaults__", (TINY,))
    monkeypatch.setattr(peaks, "BUFFERS", {"1 KiB": 1 << 10})
    monkeypatch.setattr(peaks, "READ_BYTES", 1 << 10)
    monkeypatch.setattr(peaks, "ROUNDS", dict.fromkeys(peaks.SETS, 2))
    monkeypatch.setattr(graphs, "find_spec", lambda name: None)


@needs_native
def test_json_is_alone_on_stdout(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    done = cli("bench", "kernels", "--repeats", "1", "--json", "-o", folder)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert {row["op"] for row in report["rows"]} == {case.op for case in TINY}
    assert "pip install 'bitcompress[onnx]'" in done.stderr
    assert json.loads((folder / "kernels.json").read_text()) == report
    assert (folder / "kernels.md").read_text().startswith("# Kernels\n")
    assert (folder / "kernels.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in folder.iterdir()) == ["kernels.json", "kernels.md", "kernels.png"]


@needs_native
def test_only_chooses_and_the_rest_is_not_timed(cli: Cli) -> None:
    words = ("bench", "kernels", "--repeats", "1", "--level", "scalar", "-q", "--json", "--only")
    rows = json.loads(cli(*words, "encode").stdout)["rows"]
    assert [(row["op"], row["level"]) for row in rows] == [("encode", "scalar")]


@needs_native
def test_text(cli: Cli) -> None:
    done = cli("bench", "kernels", "--repeats", "1", "--no-progress")
    assert "linear W2A2 7x6-5" in done.stdout
    assert "linear_codes W2A2 7x6-5" in done.stdout
    assert "note: ort_fp32 is n/a: " in done.stderr


def test_the_list_of_cases(cli: Cli) -> None:
    done = cli("bench", "kernels", "--list", "--only", "linear")
    assert done.stdout.split() == [case.name for case in TINY[:2]]


def test_mistakes_have_their_exit_codes(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = cli("bench", "kernels", "--only", "nothing", "--json")
    assert done.exit_code == 2 and "--only nothing matches no case" in done.stderr
    assert json.loads(done.stdout)["error"]["exit_code"] == 2
    (tmp_path / "file").write_text("")
    if native.kernels() is not None:
        done = cli("bench", "kernels", "--level", "mmx")
        assert done.exit_code == 2 and "--level mmx" in done.stderr
        done = cli("bench", "kernels", "-o", tmp_path / "file")
        assert done.exit_code == 2 and "cannot be made a folder" in done.stderr
    monkeypatch.setattr(native, "_load", lambda: (None, "switched off by the test"))
    done = cli("bench", "kernels")
    assert done.exit_code == 6 and "switched off by the test" in done.stderr


def test_a_model_beside_its_float_file(
    cli: Cli, packed: Path, checkpoint: Path, tmp_path: Path
) -> None:
    words = ("bench", "model", packed, "--side", "16", "--side", "24", "--repeats", "1", "--json")
    done = cli(*words, "--float", checkpoint, "-o", tmp_path / "o")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [row["input"] for row in report["rows"]] == [[[1, 3, 16, 16]], [[1, 3, 24, 24]]]
    for row in report["rows"]:
        assert row["model"] == "edsr x2" and (row["weight_bits"], row["act_bits"]) == (4, 4)
        assert row["ratio_float"] > 0 and row["rss_mb"] > 0 and row["float_rss_mb"] > 0
        assert row["psnr_to_float_db"]["packed"] > 0
    assert "note: ort_int8 is n/a: " in done.stderr
    assert json.loads((tmp_path / "o" / "model.json").read_text()) == report
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["model.json", "model.md"]


def test_growth_and_random_weights(cli: Cli, packed: Path, tmp_path: Path) -> None:
    done = cli(
        "bench", "model", packed, "--side", "16", "--repeats", "1", "--growth", "--largest", "64",
        "--untrained", "-q", "-o", tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "edsr x2 W4A4" in done.stdout and done.stderr == ""
    report = json.loads((tmp_path / "model.json").read_text())
    assert [row["side"] for row in report["growth"]["packed"]] == [64]
    assert report["rows"][0]["psnr_drop_db"] is None
    assert "random weights" in report["rows"][0]["psnr_set"]
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_none(cli: Cli, tmp_path: Path) -> None:
    assert cli("bench", "model", tmp_path / "none").exit_code == 3
