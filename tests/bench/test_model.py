"""Tests of `bench model`: rows are whole, ratios are of the best, failures are reasons."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.bench import graphs, model
from bitcompress.bench.model import Settings, Subject, bench_model, quality_of, whole_report, widths
from bitcompress.bench.tables import model_markdown
from bitcompress.measure.clock import Times

KEYS = {
    "model", "weight_bits", "act_bits", "input", "threads", "ms", "float_ms", "int8_ms",
    "ratio_float", "ratio_int8", "rss_mb", "psnr_drop_db",
}  # fmt: skip
QUICK = Settings(repeats=1, limit=120)


class Net(nn.Module):
    """A convolution; refuses bfloat16 if told to."""

    def __init__(self, only_float: bool = False) -> None:
        super().__init__()
        self.conv, self.only_float = nn.Conv2d(3, 3, 3, padding=1), only_float

    def forward(self, x: Tensor) -> Tensor:
        if self.only_float and x.dtype != torch.float32:
            raise TypeError("float32 alone\nsecond line")
        y: Tensor = self.conv(x)
        return y


def subject(net: nn.Module, trained: bool = True) -> Subject:
    return Subject("net", net, net, 2, 3, "default", trained, 0.5, "Set5")


def batches(example: Any) -> list[Any]:
    return [example]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "find_spec", lambda name: None)


def test_a_row_is_whole_and_says_what_is_missing(alone: None) -> None:
    before = torch.get_num_threads()
    x = torch.rand(1, 3, 6, 5)
    (row,) = bench_model(subject(Net()), [x], batches, QUICK)
    assert row.keys() >= KEYS and row["input"] == [[1, 3, 6, 5]]
    assert (row["weight_bits"], row["act_bits"], row["psnr_drop_db"]) == (2, 3, 0.5)
    assert row["ms"] > 0 and row["float_ms"]["torch"] > 0 and row["bf16_ms"]["torch"] > 0
    assert row["float_ms"]["ort"] is None and row["ratio_int8"] is None
    assert "pip install 'bitcompress[onnx]'" in row["absent"]["ort_int8"]
    assert row["psnr_to_float_db"]["packed"] == float("inf")
    assert torch.get_num_threads() == before
    text = model_markdown(whole_report([row], QUICK))
    assert "| net | 2/3 | 1x3x6x5 |" in text and "ort_fp32 of net at 1x3x6x5" in text


def test_ratios_are_of_the_best_times(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"packed": 2.0, "torch_fp32/plain": 8.0, "torch_fp32/channels_last": 5.0,
             "torch_bf16/channels_last": 4.0}  # fmt: skip

    def turns(contenders: list[Any], **_: Any) -> dict[str, Times]:
        assert [c.name for c in contenders] == list(known)
        return {c.name: Times.of([known[c.name], 9.0]) for c in contenders}

    monkeypatch.setattr(model, "take_turns", turns)
    (row,) = bench_model(subject(Net(), False), [torch.rand(1, 3, 4, 4)], batches, QUICK)
    assert row["ms"] == 2000 and row["float_ms"]["torch"] == 5000
    assert row["ratio_float"] == 2.5 and row["ratio"]["torch_bf16"] == 2.0
    assert "psnr_to_float_db" not in row, "random weights say nothing about quality"


def test_who_cannot_run_is_a_reason(alone: None) -> None:
    (row,) = bench_model(subject(Net(True)), [{"x": torch.rand(1, 3, 4, 4)}], batches, QUICK)
    assert row["absent"]["torch_bf16/channels_last"] == "torch: float32 alone"
    assert row["bf16_ms"]["torch"] is None and row["ratio_float"] is not None


@pytest.mark.ort
@pytest.mark.skipif(bool(graphs.missing("onnx", "onnxruntime", "onnxscript")),
                    reason="ONNX Runtime and what exports to it are not installed")  # fmt: skip
def test_with_onnx_runtime() -> None:
    (row,) = bench_model(subject(Net()), [torch.rand(1, 3, 8, 8)], batches, QUICK)
    assert not row["absent"]
    assert row["float_ms"]["ort"] > 0 and row["int8_ms"]["ort"] > 0 and row["ratio_int8"] > 0
    assert row["psnr_to_float_db"]["ort_int8"] > 15
    json.dumps(row["ways_ms"])


@pytest.mark.ort
@pytest.mark.skipif(bool(graphs.missing("onnx", "onnxruntime", "onnxscript")),
                    reason="ONNX Runtime and what exports to it are not installed")  # fmt: skip
def test_an_export_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no such operator\nand a page of text")

    monkeypatch.setattr(model.exported, "export", fail)
    (row,) = bench_model(subject(Net()), [torch.rand(1, 3, 8, 8)], batches, QUICK)
    assert row["absent"]["ort_fp32"] == "export to ONNX: no such operator"
    assert row["absent"]["ort_int8"] == row["absent"]["ort_fp32"]


def test_widths_are_those_of_most_weights() -> None:
    def layer(op: str, w: int, a: int, *shape: int, state: str = "packed") -> dict[str, Any]:
        return {"op": op, "weight_bits": w, "act_bits": a, "state": state, "shape": shape}

    layers = [layer("conv2d", 8, 8, 2, 2), layer("conv2d", 8, 8, 2, 2), layer("linear", 2, 4, 9),
              layer("matmul", 4, 4), layer("linear", 3, 3, 99, state="simulated")]  # fmt: skip
    assert widths(layers) == (2, 4)
    assert widths([]) == (32, 32)


def test_quality_is_what_the_folder_tells() -> None:
    told = {"quality": {"a": {"drop_db": None}, "Set5": {"drop_db": 0.25}}}
    assert quality_of(told) == (0.25, "Set5")
    drop, reason = quality_of(None)
    assert drop is None and "no PSNR" in reason
