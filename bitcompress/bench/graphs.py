"""Small ONNX graphs of one operator each, and sessions of ONNX Runtime that run them.

onnx and onnxruntime are optional: `missing` says what to install, and all else here needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from bitcompress.errors import Unavailable

Array = np.ndarray[Any, Any]
Made = tuple[str, Sequence[str], str, Mapping[str, Any]]
"""A node: operator, inputs, output, attributes."""
EXTRA = "pip install 'bitcompress[onnx]'"
SCALE = np.float32(0.02)
OPSET, IR = 17, 8


def missing(*packages: str) -> str:
    """The sentence on what is not installed; empty where all is there."""
    absent = [name for name in packages or ("onnx", "onnxruntime") if find_spec(name) is None]
    return f"{' and '.join(absent)} not installed: {EXTRA}" if absent else ""


def session(model: bytes | str, threads: int) -> Any:
    """A session of so many threads; they may spin in a run, not while others take their turn."""
    if reason := missing("onnxruntime"):
        raise Unavailable(reason)
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def runner(opened: Any, inputs: Mapping[str, Array]) -> Callable[[], Any]:
    """One run of a session, inputs and outputs bound once so that nothing is copied."""
    binding = opened.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    for output in opened.get_outputs():
        binding.bind_output(output.name, "cpu")

    def run() -> Any:
        opened.run_with_iobinding(binding)
        return binding

    return run


def graph(
    nodes: Sequence[Made],
    inputs: Mapping[str, Array], constants: Mapping[str, Array], output: type[Any],
) -> bytes:  # fmt: skip
    """A model of nodes (operator, inputs, output, attributes); the last output is `y`.

    An operator "ms:NAME" is one of ONNX Runtime's own.
    """
    from onnx import helper, numpy_helper

    made = []
    for kind, names, result, attributes in nodes:
        domain, _, name = kind.rpartition(":")
        made.append(
            helper.make_node(
                name, list(names), [result], domain="com.microsoft" if domain else "", **attributes
            )
        )
    values = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in inputs.items()
    ]
    result = helper.make_tensor_value_info(
        "y", helper.np_dtype_to_tensor_dtype(np.dtype(output)), None
    )
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    model = helper.make_model(
        helper.make_graph(made, "case", values, [result], held),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)],
    )
    model.ir_version = IR
    return bytes(model.SerializeToString())


def _grid(name: str, kind: type[Any]) -> dict[str, Array]:
    zero = 128 if kind is np.uint8 else 0
    return {f"{name}_s": np.array(SCALE), f"{name}_z": np.array(zero, dtype=kind)}


def conv(
    x: Array, w: Array, bias: Array, padding: int, groups: int, after: Sequence[Made] = (),
    constants: Mapping[str, Array] | None = None,
) -> bytes:  # fmt: skip
    """Float convolution of x (N, C, H, W); `after` are nodes from `conv` to `y`."""
    attributes = {"pads": [padding] * 4, "group": groups}
    first: Made = ("Conv", ("x", "w", "b"), "conv" if after else "y", attributes)
    held = {"w": w, "b": bias, **(constants or {})}
    return graph([first, *after], {"x": x}, held, np.float32)


def _to_codes(nodes: Sequence[Made], x: Array, constants: Mapping[str, Array], cut: bool) -> bytes:
    """Nodes that end in `real`, and their codes where `cut`."""
    last: Made = ("Identity", ("real",), "y", {})
    if not cut:
        return graph([*nodes, last], {"x": x}, constants, np.float32)
    last = ("QuantizeLinear", ("real", "y_s", "y_z"), "y", {})
    return graph([*nodes, last], {"x": x}, {**constants, **_grid("y", np.uint8)}, np.uint8)


def norm(x: Array, gain: Array, shift: Array, cut: bool) -> bytes:
    """Layer norm of the rows of x (M, C), to codes where `cut`."""
    node: Made = ("LayerNormalization", ("x", "gain", "shift"), "real", {"axis": -1})
    return _to_codes([node], x, {"gain": gain, "shift": shift}, cut)


def gelu(x: Array, cut: bool) -> bytes:
    """GELU of x, to codes where `cut`."""
    return _to_codes([("ms:Gelu", ("x",), "real", {})], x, {}, cut)


def softmax(x: Array, cut: bool) -> bytes:
    """Softmax of the rows of x (M, N), to codes where `cut`."""
    return _to_codes([("Softmax", ("x",), "real", {"axis": -1})], x, {}, cut)


def qlinear_conv(x: Array, w: Array, padding: int, groups: int) -> bytes:
    """Convolution of codes, channels last: x (N, H, W, C) uint8, w (O, C/groups, KH, KW) int8."""
    names = ("x", "x_s", "x_z", "w", "w_s", "w_z", "y_s", "y_z", "b")
    filters = len(w)
    constants = {
        "w": w, "w_s": np.full(filters, SCALE), "w_z": np.zeros(filters, np.int8),
        "b": np.zeros(filters, np.int32), **_grid("x", np.uint8), **_grid("y", np.uint8),
    }  # fmt: skip
    attributes = {"pads": [padding] * 4, "group": groups, "channels_last": 1}
    return graph([("ms:QLinearConv", names, "y", attributes)], {"x": x}, constants, np.uint8)


def linear(x: Array, w: Array, bias: Array) -> bytes:
    """Float x (M, K) times w (K, N) plus bias."""
    return graph([("Gemm", ("x", "w", "b"), "y", {})], {"x": x}, {"w": w, "b": bias}, np.float32)


def qlinear_matmul(x: Array, w: Array) -> bytes:
    """Codes x (M, K) uint8 times w (K, N) int8 to codes."""
    names = ("x", "x_s", "x_z", "w", "w_s", "w_z", "y_s", "y_z")
    constants = {
        "w": w, **_grid("w", np.int8), **_grid("x", np.uint8), **_grid("y", np.uint8)
    }  # fmt: skip
    return graph([("QLinearMatMul", names, "y", {})], {"x": x}, constants, np.uint8)


def product(a: Array, b: Array) -> bytes:
    """Float a (B, M, K) times b (B, K, N)."""
    return graph([("MatMul", ("a", "b"), "y", {})], {"a": a, "b": b}, {}, np.float32)


def qlinear_product(a: Array, b: Array) -> bytes:
    """The same of codes uint8 to codes."""
    names = ("a", "a_s", "a_z", "b", "b_s", "b_z", "y_s", "y_z")
    constants = {**_grid("a", np.uint8), **_grid("b", np.uint8), **_grid("y", np.uint8)}
    return graph([("QLinearMatMul", names, "y", {})], {"a": a, "b": b}, constants, np.uint8)


def attention(q: Array, k: Array, v: Array, bias: Array) -> bytes:
    """softmax(q k + bias) v in float; q, v (B, M, D), k (B, D, M)."""
    nodes: list[Made] = [
        ("MatMul", ("q", "k"), "logits", {}),
        ("Add", ("logits", "bias"), "shifted", {}),
        ("Softmax", ("shifted",), "p", {"axis": -1}),
        ("MatMul", ("p", "v"), "y", {}),
    ]
    return graph(nodes, {"q": q, "k": k, "v": v}, {"bias": bias}, np.float32)


def qlinear_attention(q: Array, k: Array, v: Array, bias: Array) -> bytes:
    """The same with both products on codes and the softmax in float, as static QDQ makes it."""
    nodes: list[Made] = [
        ("QLinearMatMul", ("q", "g_s", "g_z", "k", "g_s", "g_z", "g_s", "g_z"), "codes", {}),
        ("DequantizeLinear", ("codes", "g_s", "g_z"), "logits", {}),
        ("Add", ("logits", "bias"), "shifted", {}),
        ("Softmax", ("shifted",), "p", {"axis": -1}),
        ("QuantizeLinear", ("p", "p_s", "p_z"), "p_codes", {}),
        ("QLinearMatMul", ("p_codes", "p_s", "p_z", "v", "g_s", "g_z", "g_s", "g_z"), "y", {}),
    ]
    constants = {
        "bias": bias, **_grid("g", np.uint8),
        "p_s": np.array(np.float32(1 / 255)), "p_z": np.array(0, dtype=np.uint8),
    }  # fmt: skip
    return graph(nodes, {"q": q, "k": k, "v": v}, constants, np.uint8)


def quantize(x: Array) -> bytes:
    """Float x to codes."""
    return graph(
        [("QuantizeLinear", ("x", "x_s", "x_z"), "y", {})], {"x": x}, _grid("x", np.uint8),
        np.uint8,
    )  # fmt: skip
