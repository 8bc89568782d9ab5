"""Tests of what is printed: figures in their places, nothing cut, JSON that every reader takes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bitcompress.cli import shown

Capture = pytest.CaptureFixture[str]


def test_json_holds_no_infinity(capsys: Capture) -> None:
    shown.as_json({"a": math.inf, "b": [math.nan, 1.5, {"c": -math.inf}], 3: (1, "x")})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": None, "b": [None, 1.5, {"c": None}], "3": [1, "x"]}


def test_only_what_was_measured_has_a_column(capsys: Capture) -> None:
    shown.quality({"small": {"count": 2, "fidelity_psnr_y": 44.126, "packed_psnr_y": None}})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["set", "pictures", "packed", "to", "float"]
    assert lines[2].split() == ["small", "2", "44.13"]
    shown.quality({})
    assert capsys.readouterr().out == ""


def test_names_of_sets_are_text_not_markup(capsys: Capture) -> None:
    shown.quality({"[red]a[/red] :smile:": {"count": 1, "packed_psnr_y": 30.0}})
    assert "[red]a[/red] :smile:" in capsys.readouterr().out


@pytest.mark.parametrize(("ratio", "word"), [(1.5, "1.50x faster"), (0.5, "slower")])
def test_slower_is_called_slower(capsys: Capture, ratio: float, word: str) -> None:
    shown.speed({"float_ms": 3.0, "packed_ms": 3.0 / ratio, "ratio": ratio, "repeats": 5,
                 "threads": 1, "load": 0.5, "input": [[1, 3, 8, 8]]})  # fmt: skip
    out = capsys.readouterr().out
    assert word in out and "1x3x8x8" in out and "load 0.50" in out and "rough" not in out


def test_rough_times_are_called_so(capsys: Capture) -> None:
    shown.speed({"packed_ms": 3.0, "repeats": 5, "threads": 1, "load": 9.0, "input": [[1]],
                 "rough": "packed waited for a processor in 30 % of its time"})  # fmt: skip
    out = capsys.readouterr().out
    assert "these figures are rough: packed waited for a processor in 30 % of its time" in out


def test_long_names_of_layers_are_whole(capsys: Capture) -> None:
    name = "layers.0.blocks.1.attn.attns.1.pos.pos_proj@matmul.0.with.a.very.long.name" * 2
    row = {"name": name, "op": "matmul", "weight_bits": 4, "act_bits": 4, "macs": 7,
           "state": "float", "reason": "because"}  # fmt: skip
    shown.layers([row])
    assert f"{name}  matmul" in capsys.readouterr().out
    shown.sensitivity([row | {"bits": 4, "sqnr_db": 20.04}, row | {"bits": 2, "sqnr_db": 3.0}])
    assert capsys.readouterr().out.splitlines()[1] == f"{name}    20.0    3.0"


def test_many_left_out_are_counted(capsys: Capture) -> None:
    pictures = [(Path(f"{i}.png"), f"{i}.png cannot be read") for i in range(30)]
    shown.left_out(pictures)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "note: left out 0.png: cannot be read"
    assert lines[-1] == "note: 30 pictures were left out" and len(lines) == shown.MOST_SKIPPED + 1
    shown.left_out(pictures, quiet=True)
    assert capsys.readouterr().err == ""
