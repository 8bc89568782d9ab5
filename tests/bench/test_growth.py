"""Tests of growth: sizes in order, rows of a process that ends early, the power, the picture."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from bitcompress.bench.growth import alone, exponent, measure_alone
from bitcompress.bench.growth_picture import draw_growth
from bitcompress.bench.model import Settings, whole_report
from bitcompress.bench.tables import model_markdown


def test_one_model_at_growing_sizes() -> None:
    sizes: list[int] = []

    def example(side: int) -> torch.Tensor:
        sizes.append(side)
        return torch.rand(1, 1, side, side)

    before = torch.get_num_threads()
    rows = list(alone(nn.Identity(), [16, 8], example, before))
    assert [row["side"] for row in rows] == [8, 16] and sizes == [8, 8, 16]
    assert all(row["ms"] > 0 and row["rss_mb"] > 0 for row in rows)
    assert rows[1]["pixels"] == 256


def test_rows_of_a_process() -> None:
    program = "print('{\"side\": 8}'); print('noise'); print('{\"side\": 16}')"
    rows, reason = measure_alone([sys.executable, "-c", program], 60)
    assert rows == [{"side": 8}, {"side": 16}] and reason == ""


def test_a_process_that_fails_or_takes_too_long_keeps_its_rows() -> None:
    program = "print('{\"side\": 8}', flush=True); raise SystemExit('out of memory')"
    assert measure_alone([sys.executable, "-c", program], 60) == ([{"side": 8}], "out of memory")
    program = "print('{\"side\": 8}', flush=True); import time; time.sleep(60)"
    rows, reason = measure_alone([sys.executable, "-c", program], 3)
    assert rows == [{"side": 8}] and reason == "took longer than 3 s"


def test_the_power_of_growth() -> None:
    rows = [{"pixels": 10, "ms": 7.0}, {"pixels": 100, "ms": 2.0}, {"pixels": 400, "ms": 8.0}]
    assert exponent(rows, "ms") == pytest.approx(1.0)
    assert exponent(rows[:1], "ms") is None


@pytest.mark.parametrize("whole", [True, False])
def test_picture_and_table(whole: bool) -> None:
    def row(side: int, ms: float) -> dict[str, Any]:
        return {"side": side, "pixels": side * side, "ms": ms, "rss_mb": 200.0 + ms}

    report = whole_report(
        [
            {"model": "net", "weight_bits": 2, "act_bits": 2, "input": [[1, 3, 8, 8]], "ms": 1.0,
             "median_ms": 1.0, "spread": 0.1, "load": 0.5, "float_ms": {"torch": 2.0, "ort": None},
             "int8_ms": {"ort": None}, "bf16_ms": {"torch": 1.5}, "ratio_float": 2.0,
             "ratio_int8": None, "rss_mb": 300.0, "psnr_drop_db": None, "psnr_set": "none",
             "absent": {}},
        ],
        Settings(),
    )  # fmt: skip
    report["growth"] = {
        "packed": [row(64, 1), row(128, 4)] if whole else [],
        "float": [row(64, 2)] if whole else [],
        "absent": {"float": "took longer than 3 s"},
    }
    assert draw_growth(report).startswith(b"\x89PNG")
    text = model_markdown(report)
    assert "float stops there: took longer than 3 s" in text
    assert ("pixels^1.00" in text) == whole
