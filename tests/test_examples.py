"""Every example runs as a user would run it, in seconds, on tiny networks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *words: str, folder: Path) -> str:
    """What an example printed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words],
        capture_output=True, text=True, cwd=folder, timeout=900,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_custom_model(tmp_path: Path) -> None:
    said = run("custom_model.py", "--smoke", folder=tmp_path)
    assert "packed as saved and loaded again: True" in said
    assert "qkv" in said and "matmul" in said
    assert list(tmp_path.iterdir()) == []


def test_a_custom_model_in_one_bit(tmp_path: Path) -> None:
    said = run("binarize_custom.py", "--smoke", folder=tmp_path)
    assert "packed as saved and loaded again: True" in said
    assert "enter    float: first layer" in said and "body.3   packed: " in said
    assert list(tmp_path.iterdir()) == []


def test_dat(tmp_path: Path) -> None:
    said = run("quantize_dat.py", "--smoke", "--bits", "3", folder=tmp_path)
    assert "as saved and loaded again: True" in said and "x smaller" in said
    assert (tmp_path / "dat-packed" / "packed" / "manifest.json").exists()


def test_the_demo(tmp_path: Path) -> None:
    said = run("demo.py", "--smoke", folder=tmp_path)
    for name in ("bicubic", "float", "packed"):
        assert f"dB  demo/{name}.png" in said
        assert (tmp_path / "demo" / f"{name}.png").exists()
    assert (tmp_path / "demo" / "packed" / "report.md").exists()


PROGRAMS = sorted(p.name for p in EXAMPLES.glob("*.py") if "__main__" in p.read_text("utf-8"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_example_has_help(name: str, tmp_path: Path) -> None:
    assert "usage: " in run(name, "--help", folder=tmp_path)
