"""What an exported graph is relieved of before it is written: notes, long names, wide numbers.

The values that the file computes stay the same bits: a parameter becomes float16 only where every
number of it is one exactly, an index a narrower integer only where it fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from bitcompress.backends.schema import DOMAIN, OPERATORS

FOLDED = 1024
"""Elements of the largest constant that is worth computing when the file is made; larger ones
would take more room than the small tensors that they follow from."""
WIDE = 64
"""Elements from which on a number of a standard operator is worth a Cast."""


def fold(model: Any) -> None:
    """Compute small constants, share what is computed twice, drop what nobody reads."""
    from onnxscript.optimizer import optimize_ir

    optimize_ir(model, input_size_limit=FOLDED, output_size_limit=FOLDED)


def slim(model: Any) -> None:
    """Make the graph as small as it can be with the same numbers. `model` is an onnx_ir.Model."""
    from onnx_ir.passes import common

    common.RemoveUnusedNodesPass()(model)
    common.DeduplicateInitializersPass(size_limit=1 << 40)(model)
    _narrow(model)
    _rename(model.graph)
    common.ClearMetadataAndDocStringPass()(model)
    for value in _values(model.graph):
        value.metadata_props.clear()
        value.doc_string = None
        if not value.is_graph_input() and not value.is_graph_output():
            value.shape = None
            value.type = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.name = "bitcompress"
    model.producer_name, model.producer_version = "bitcompress", ""
    model.functions.clear()


def _values(graph: Any) -> Iterable[Any]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _takes_half(value: Any) -> bool:
    """Whether all who read an initialiser are operators of ours that take it as float16."""
    for node, index in value.uses():
        ports = OPERATORS[node.op_type].inputs if node.domain == DOMAIN else ()
        if index >= len(ports) or ports[index].kind != "parameter":
            return False
    return not value.is_graph_output()


def _narrow(model: Any) -> None:
    """float32 to float16, int64 to the narrowest integer, where no number changes."""
    import onnx_ir as ir

    graph = model.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        array = np.asarray(tensor.numpy())
        narrow = _narrowed(array)
        if narrow is None or (not _takes_half(value) and array.size < WIDE):
            continue
        made = ir.Value(name=f"{value.name}_", const_value=ir.tensor(narrow, name=f"{value.name}_"))
        made.dtype, made.shape = ir.tensor(narrow).dtype, ir.Shape(narrow.shape)
        graph.register_initializer(made)
        if narrow.dtype == np.float16 and _takes_half(value):
            value.replace_all_uses_with(made)
        else:
            cast = ir.node("Cast", [made], attributes={"to": int(tensor.dtype)})
            cast.outputs[0].name = f"{value.name}_wide"
            cast.outputs[0].dtype, cast.outputs[0].shape = tensor.dtype, value.shape
            first = next(iter(graph))
            graph.insert_before(first, cast)
            value.replace_all_uses_with(cast.outputs[0])
        graph.initializers.pop(value.name)


def _narrowed(array: Any) -> Any:
    """The same numbers in a smaller type; None where there is none."""
    if array.dtype == np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            half = array.astype(np.float16)
        return half if np.array_equal(half.astype(np.float32), array, equal_nan=False) else None
    if array.dtype == np.int64 and array.size >= WIDE:
        for kind in (np.uint8, np.int16, np.int32):
            if np.iinfo(kind).min <= array.min() and array.max() <= np.iinfo(kind).max:
                return array.astype(kind)
    return None


def _rename(graph: Any) -> None:
    """Short names; nodes with weights are called as their layers are."""
    sites: dict[str, int] = {}
    for number, node in enumerate(graph):
        weight = node.inputs[1] if node.domain == DOMAIN and len(node.inputs) > 1 else None
        name = f"n{number}"
        if weight is not None and weight.is_initializer() and weight.name.endswith(".weight"):
            name = weight.name.removesuffix(".weight").removeprefix("model.")
            name = name.removeprefix("net.")
            sites[name] = sites.get(name, 0) + 1
            name = name if sites[name] == 1 else f"{name}:{sites[name]}"
        node.name = name
    kept = {value.name for value in (*graph.inputs, *graph.outputs)}
    values = list(graph.initializers.values())
    graph.initializers.clear()
    for number, value in enumerate(values):
        value.name = f"w{number}"
        value.const_value.name = value.name
        graph.register_initializer(value)
    count = 0
    for node in graph:
        for value in node.outputs:
            if value.name not in kept:
                value.name, count = f"v{count}", count + 1
