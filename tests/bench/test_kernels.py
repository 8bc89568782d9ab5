"""Tests of `bench kernels`: rows are whole, ratios are of the best times, what is n/a says why."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from bitcompress import native
from bitcompress.bench import graphs, inputs, kernels, operators
from bitcompress.bench.cases import Case
from bitcompress.bench.kernels import bench_kernels, chosen_levels
from bitcompress.bench.peaks import Peaks
from bitcompress.bench.rivals import COLUMNS
from bitcompress.bench.roofline import sheet
from bitcompress.bench.tables import best_rows, kernels_markdown
from bitcompress.errors import GateError, Unavailable, UsageError
from bitcompress.measure.clock import Times

pytestmark = pytest.mark.skipif(
    native.kernels() is None, reason=f"no native kernels: {native.why_not()}"
)
TINY = {
    "conv2d": (5, 6, 4, 3, 3, 1), "conv2d_sums": (5, 6, 4, 3, 3, 1), "linear": (7, 6, 5),
    "linear_sums": (7, 6, 5), "qk": (2, 4, 3, 5), "av": (2, 4, 3, 5), "attention": (2, 4, 3),
    "encode": (6, 8), "conv2d_codes": (5, 6, 4, 3, 3, 1), "conv2d_prelu": (5, 6, 4, 3, 3, 1),
    "conv2d_residual": (5, 6, 4, 4, 3, 1), "conv2d_shuffle": (5, 6, 4, 8, 3, 1),
    "linear_codes": (7, 6, 5), "layernorm_codes": (6, 8), "gelu_codes": (6, 8),
    "softmax_codes": (6, 8), "window_attention": (4, 8, 6, 2, 4),
    "window_attention_codes": (4, 8, 6, 2, 4),
}  # fmt: skip
CASES = [Case(op, 2, 2, sizes) for op, sizes in TINY.items()]
LACKING = [Case("lacking", 2, 2, (4, 4, 4))]
KEYS = {
    "op", "weight_bits", "act_bits", "shape", "threads", "level", "us", "ratio", "peak_fraction",
}  # fmt: skip


def bench(cases: list[Case], levels: list[str] | None = None) -> dict[str, Any]:
    return bench_kernels(
        cases, levels=levels or chosen_levels([]), threads=1, repeats=2, seconds=1, tries=1
    )


@pytest.fixture(autouse=True)
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that the library does not have."""
    monkeypatch.setitem(operators.OPERATORS, "lacking", "nobody has written it")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "find_spec", lambda name: None)


def test_there_is_a_tiny_case_of_every_operator() -> None:
    assert {case.op for case in CASES + LACKING} == set(operators.OPERATORS)


def test_a_row_for_each_case_and_level(alone: None) -> None:
    levels, in_use = chosen_levels([]), native.kernels().isa()  # type: ignore[union-attr]
    report = bench([*CASES, *LACKING])
    rows = report["rows"]
    assert len(rows) == len(CASES) * len(levels) + len(LACKING)
    for row in rows:
        assert row.keys() >= KEYS and set(row["ratio"]) == set(COLUMNS)
        if row["us"] is None:
            assert row["level"] is None and row["absent"]["us"]
        else:
            assert row["us"] > 0 and row["peak_fraction"] > 0 and row["level"] in levels
            assert row["ratio"]["torch_fp32"] > 0
    assert native.kernels().isa() == in_use  # type: ignore[union-attr]
    json.dumps(report, allow_nan=False)


def test_what_is_not_installed_is_named_with_its_pip_line(alone: None) -> None:
    report = bench(CASES[:1])
    sentence = "onnx and onnxruntime not installed: pip install 'bitcompress[onnx]'"
    assert report["missing"] == {"ort_fp32": sentence, "ort_int8": sentence}
    (row, *_) = report["rows"]
    assert row["ratio"]["ort_int8"] is None and row["absent"]["ort_int8"] == sentence
    text = kernels_markdown(report)
    assert sentence in text and "n/a" in text


def test_ratios_are_of_the_best_times(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def turns(contenders: list[Any], **_: Any) -> dict[str, Times]:
        known = {"torch_fp32/eager": 8.0, "torch_fp32/sdpa": 6.0}
        return {c.name: Times.of([known.get(c.name, 2.0), 9.0]) for c in contenders}

    monkeypatch.setattr(kernels, "take_turns", turns)
    peaks = Peaks({("int8", "scalar"): 4.0}, {}, 1)
    monkeypatch.setattr(kernels, "measure_peaks", lambda *_: peaks)
    (row,) = bench([Case("attention", 2, 2, (2, 4, 3))], ["scalar"])["rows"]
    assert row["us"] == 2e6 and row["median_us"] == 5.5e6
    assert row["ratio"]["torch_fp32"] == 3.0, "the fastest way of the other counts"
    assert row["ratio"]["torch_bf16"] == 1.0
    assert row["gops"] == pytest.approx(2 * (2 * 2 * 4 * 4 * 3) / 2 / 1e9)
    assert row["peak"] == "int8/scalar 4 Gop/s"
    assert row["peak_fraction"] == pytest.approx(row["gops"] / 4)


def test_levels_that_differ_fail(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(case: Case, threads: int) -> inputs.Work:
        calls: list[int] = []

        def make() -> Any:
            calls.append(1)
            value = torch.full((2,), float(len(calls)))
            return lambda: value

        return inputs.Work(make, dict.fromkeys(COLUMNS, "not there"), 8, 8)

    monkeypatch.setitem(operators.OPERATORS, "encode", wrong)
    levels = chosen_levels([])
    if len(levels) == 1:
        pytest.skip("one level cannot differ")
    with pytest.raises(GateError, match="give different results"):
        bench([Case("encode", 2, 2, (2, 2))])


def test_levels_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_levels(["scalar"]) == ["scalar"]
    with pytest.raises(UsageError, match="--level mmx"):
        chosen_levels(["mmx"])
    monkeypatch.setattr(native, "_load", lambda: (None, "switched off by the test"))
    with pytest.raises(Unavailable, match="switched off by the test"):
        chosen_levels([])


def test_tables_and_picture(alone: None) -> None:
    report = bench([*CASES, LACKING[0]])
    fastest = best_rows(report)
    assert len(fastest) == len(CASES)
    for row in fastest:
        same = [
            r["us"] for r in report["rows"] if (r["op"], r["shape"]) == (row["op"], row["shape"])
        ]
        assert row["us"] == min(same)
    text = kernels_markdown(report)
    for case in CASES:
        assert f"| {case.op} | 2/2 | {case.shape} |" in text
    assert f"- {LACKING[0].op}: {operators.OPERATORS[LACKING[0].op]}" in text
    assert sheet(report).startswith(b"\x89PNG")


def test_a_picture_of_nothing_timed(alone: None) -> None:
    assert sheet(bench(LACKING[:1])).startswith(b"\x89PNG")
    assert "Not timed" in kernels_markdown(bench(LACKING[:1]))
