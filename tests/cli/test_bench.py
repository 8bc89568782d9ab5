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
    assert "not timed: linear_codes: " in done.stdout
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
