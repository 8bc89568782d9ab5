"""Small packed models, and what sessions of them need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from bitcompress.backends import schema

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def ort() -> Any:
    """onnxruntime, or a skip that says why it is not there."""
    module = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from bitcompress.backends.session import library
    from bitcompress.errors import Unavailable

    try:
        library()
    except Unavailable as missing:
        pytest.skip(str(missing))
    return module


def one_node(
    op_type: str, inputs: Sequence[Any], constant: Sequence[int], **attributes: Any
) -> bytes:
    """A file of one node; inputs whose numbers are in `constant` are initialisers."""
    import onnx
    from onnx import helper

    schema.register()
    names = ["" if value is None else f"i{k}" for k, value in enumerate(inputs)]
    node = helper.make_node(op_type, names, ["y"], domain=schema.DOMAIN, **attributes)
    known = [
        onnx.numpy_helper.from_array(inputs[k], f"i{k}") for k in constant if inputs[k] is not None
    ]
    free = [
        helper.make_tensor_value_info(
            f"i{k}", helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim
        )
        for k, value in enumerate(inputs)
        if value is not None and k not in constant
    ]
    codes = schema.OPERATORS[op_type].codes
    made = onnx.TensorProto.UINT8 if codes else onnx.TensorProto.FLOAT
    out = helper.make_tensor_value_info("y", made, None)
    graph = helper.make_graph([node], "one", free, [out], known)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(schema.DOMAIN, schema.VERSION)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())


@pytest.fixture
def run_node(ort: Any) -> Run:
    """Runs one node of ours in ONNX Runtime."""
    from bitcompress.backends.session import session_of

    def run(op_type: str, inputs: Sequence[Any], constant: Sequence[int], **attributes: Any) -> Any:
        session = session_of(one_node(op_type, inputs, constant, **attributes), "one node", 2)
        feed = {value.name: inputs[int(value.name[1:])] for value in session.get_inputs()}
        return session.run(None, feed)[0]

    return run


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Any:
    """Seeded normal numbers, float32."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).numpy().astype(np.float32)
