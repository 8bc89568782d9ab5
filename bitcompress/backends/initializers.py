"""Constants of a graph that a file is written from."""

from __future__ import annotations

from typing import Any


def initializer(graph: Any, name: str, numbers: Any) -> Any:
    """An array as an initialiser of an onnx_ir graph, of its own type and shape."""
    import onnx_ir as ir

    tensor = ir.tensor(numbers, name=name)
    value = ir.Value(name=name, const_value=tensor)
    value.dtype, value.shape = tensor.dtype, ir.Shape(numbers.shape)
    graph.register_initializer(value)
    return value
