"""The table of the plugins is that of the schema, and what a user is told names what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitcompress.backends import schema, tensorrt
from bitcompress.cli.export import summary

ROOT = Path(__file__).resolve().parents[2]
BUILT_IN = {"Gelu", "Sigmoid", "MatMul", "Conv", "Softmax", "LayerNormalization"}
"""Names that TensorRT's parser takes for its own, whatever the domain of the node."""


def test_the_plugins_have_the_table_of_the_schema() -> None:
    file = ROOT / "csrc/host/tensorrt/operators.inc"
    assert file.read_text() == tensorrt.plugin_table(), (
        f"write it again: python -m bitcompress.backends.tensorrt > {file.relative_to(ROOT)}"
    )


def test_no_operator_has_the_name_of_one_of_tensorrt() -> None:
    assert not BUILT_IN & set(schema.OPERATORS)


def test_every_operator_has_a_plugin_or_a_reason_why_not() -> None:
    makers = (ROOT / "csrc/host/tensorrt/operator.cc").read_text()
    assert set(tensorrt.WITHOUT) < set(schema.OPERATORS)
    for name in set(schema.OPERATORS) - set(tensorrt.WITHOUT):
        assert f'{{"{name}", make_' in makers, f"{name} has no plugin"


def test_a_user_is_told_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "plugin_library", lambda: None)
    told = tensorrt.told(tmp_path / "model.onnx")
    assert told["plugins"] is None and tensorrt.BUILD in told["reason"] and told["engine"] is None
    assert "trtexec --onnx=" in told["command"] and "model.onnx" in told["command"]


def test_the_library_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "plugins.so"
    library.touch()
    monkeypatch.setenv("BITCOMPRESS_TENSORRT_PLUGINS", str(library))
    assert tensorrt.plugin_library() == library
    told = tensorrt.told(tmp_path / "model.onnx")
    assert told["plugins"] == str(library) and str(library) in told["command"]


def test_the_command_line_says_what_became_of_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "plugin_library", lambda: None)
    place = tmp_path / "model.onnx"
    report = {
        "file_bytes": 1, "nodes": 1, "initializer_bytes": 1, "packed_bytes": 1, "operators": [],
        "sizes": {"step": 1, "reason": ""}, "whole": [], "tensorrt": tensorrt.told(place),
    }  # fmt: skip
    last = summary(report, place).splitlines()[-1]
    assert last.startswith("tensorrt: no engine: ") and tensorrt.BUILD in last
    assert f"trtexec --onnx={place}" in last
    report["tensorrt"] |= {"engine": "there.engine"}
    assert summary(report, place).endswith("tensorrt: there.engine")
