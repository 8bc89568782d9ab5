"""Parts of a transposed value, cut out before: the same numbers, one moving axis each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitcompress.backends.unbound import cut_first

from .conftest import numbers

SIZES = (2, 7, 3, 4, 5)


def split(perm: tuple[int, ...], axis: int, *, whole: bool = False, wide: int = 1) -> Any:
    """A model that takes a permuted value apart; `whole` gives the permuted value out too."""
    import onnx
    import onnx_ir
    from onnx import helper

    shape = [SIZES[a] for a in perm]
    count = shape[axis] // wide
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=perm)]
    known = {"axis": [axis - len(perm)], "same": [axis]}
    for k in range(count):
        known |= {f"from{k}": [k * wide], f"to{k}": [(k + 1) * wide]}
        nodes.append(helper.make_node("Slice", ["t", f"from{k}", f"to{k}", "axis"], [f"s{k}"]))
        behind = ("Squeeze", [f"s{k}", "same"]) if wide == 1 else ("Identity", [f"s{k}"])
        nodes.append(helper.make_node(*behind, [f"y{k}"]))
    outs = [*(f"y{k}" for k in range(count)), *(["t"] if whole else [])]
    float_ = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", float_, SIZES)],
        [helper.make_tensor_value_info(name, float_, None) for name in outs],
        [onnx.numpy_helper.from_array(np.array(v), name) for name, v in known.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx_ir.from_proto(onnx.shape_inference.infer_shapes(model))


def run(model: Any, x: Any) -> list[Any]:
    """What a model gives."""
    import onnx_ir
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, {"x": x}))


CASES: dict[str, tuple[dict[str, Any], tuple[int, ...] | None]] = {
    "heads": ({"perm": (2, 0, 3, 4, 1), "axis": 0}, (0, 2, 3, 1)),
    "heads first": ({"perm": (0, 3, 1, 2, 4), "axis": 1}, (0, 1, 2, 3)),
    "the last axis": ({"perm": (4, 3, 2, 1, 0), "axis": 4}, (3, 2, 1, 0)),
    "needed as a whole": ({"perm": (2, 0, 3, 4, 1), "axis": 0, "whole": True}, None),
    "in wider parts": ({"perm": (3, 0, 2, 4, 1), "axis": 0, "wide": 2}, None),
}
"""How a value is taken apart, and how each part is left; None where nothing is done."""


@pytest.mark.parametrize("name", CASES)
def test_parts_are_the_same_numbers(name: str) -> None:
    from onnx_ir.passes import common

    how, left = CASES[name]
    x, model = numbers(*SIZES), split(**how)
    want = run(model, x)
    cut_first(model)
    common.RemoveUnusedNodesPass()(model)
    for got, wanted in zip(run(model, x), want, strict=True):
        np.testing.assert_array_equal(got, wanted)
    perms = {tuple(n.attributes["perm"].value) for n in model.graph if n.op_type == "Transpose"}
    assert perms == {how["perm"] if left is None else left}
