"""The operators have one description: what onnx knows and what the library compiles are that."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitcompress.backends import schema

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_the_library_is_that_of_python() -> None:
    compiled = (ROOT / "csrc" / "host" / "onnxruntime" / "operators.inc").read_text()
    assert compiled == schema.cpp_table(), "run python -m bitcompress.backends.schema > that file"


def test_every_operator_has_a_kernel_and_a_meaning() -> None:
    from bitcompress.backends.reference import MEANINGS

    library = (ROOT / "csrc" / "host" / "onnxruntime" / "library.cc").read_text()
    assert set(MEANINGS) == set(schema.OPERATORS)
    assert all(f'{{"{name}", make_' in library for name in schema.OPERATORS)


def test_operators_are_named_once_and_optional_inputs_stand_last() -> None:
    for operator in schema.OPERATORS.values():
        names = [port.name for port in operator.inputs]
        assert len(set(names)) == len(names)
        counts = [port.count for port in operator.inputs]
        assert counts == sorted(counts, key=["one", "optional"].index), operator.name


@pytest.mark.ort
def test_onnx_knows_the_schemas() -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    schema.register()
    schema.register()
    for operator in schema.OPERATORS.values():
        known = onnx.defs.get_schema(operator.name, schema.DOMAIN)
        assert [port.name for port in known.inputs] == [port.name for port in operator.inputs]
        assert set(known.attributes) == {attribute.name for attribute in operator.attributes}
        assert known.since_version == schema.VERSION


def test_the_guide_lists_the_operators() -> None:
    guide = (ROOT / "docs" / "deploy.md").read_text()
    assert schema.markdown_table() in guide, "paste markdown_table() into docs/deploy.md"
