"""Operators in ONNX Runtime against their definitions in torch: the same bits; refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bitcompress.backends.reference import evaluate
from bitcompress.backends.schema import VERSION
from bitcompress.errors import LoadError, Unavailable
from bitcompress.packed.steps import NUMBERS
from bitcompress.packed.stored import pack

from .conftest import numbers, one_node

pytestmark = pytest.mark.ort
EDGES = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-40, 3e38]


def weight(shape: tuple[int, ...], bits: int) -> Any:
    """Packed random codes."""
    generator = torch.Generator().manual_seed(bits)
    return pack(
        torch.randint(0, 1 << bits, shape, generator=generator, dtype=torch.uint8), bits
    ).numpy()


def layer(shape: tuple[int, ...], bits: tuple[int, int], channels: int, *, half: bool) -> list[Any]:
    """The parameters of a layer, in the order of the ports behind x."""
    kind = np.float16 if half else np.float32
    top = (1 << bits[1]) - 1
    outs = (np.abs(numbers(shape[0], seed=3)) + 0.1).astype(kind)
    return [
        weight(shape, bits[0]), outs, -outs, np.array([4 / top], kind), np.array([-2], kind),
        numbers(shape[0], seed=4).astype(kind),
        (np.abs(numbers(channels, seed=5)) + 0.5).astype(kind),
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [(1, 1), (2, 2), (3, 5), (4, 4), (8, 8)])
@pytest.mark.parametrize("half", [False, True])
def test_linear(run_node: Any, bits: tuple[int, int], half: bool) -> None:
    x = numbers(2, 7, 33)
    x[0, 0, : len(EDGES)] = EDGES
    inputs = [x, *layer((19, 33), bits, 33, half=half), numbers(33, seed=6)]
    attributes = {"weight_shape": [19, 33], "weight_bits": bits[0], "input_bits": bits[1]}
    made = run_node("BitLinear", inputs, range(1, 9), **attributes)
    np.testing.assert_array_equal(made, evaluate("BitLinear", inputs, attributes).numpy())


@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((8, 5, 3, 3), {"pads": [1, 1]}),
        ((8, 5, 3, 3), {"pads": [2, 1], "strides": [2, 1], "dilations": [1, 2]}),
        ((6, 2, 3, 3), {"group": 3}),
        ((6, 1, 5, 3), {"group": 6, "pads": [2, 1]}),
        ((16, 5, 1, 1), {}),
    ],
)
def test_conv2d(run_node: Any, shape: tuple[int, ...], geometry: dict[str, Any]) -> None:
    channels = shape[1] * geometry.get("group", 1)
    inputs = [numbers(2, channels, 9, 11), *layer(shape, (2, 2), channels, half=True)]
    attributes = {"weight_shape": list(shape), "weight_bits": 2, "input_bits": 2, **geometry}
    made = run_node("BitConv2d", inputs, range(1, 8), **attributes)
    np.testing.assert_array_equal(made, evaluate("BitConv2d", inputs, attributes).numpy())


def test_steps_before_and_after_a_linear(run_node: Any) -> None:
    norm, gelu, add, leaky = (NUMBERS[kind] for kind in ("norm", "gelu", "add", "leaky"))
    inputs = [numbers(2, 7, 33), *layer((19, 33), (2, 2), 33, half=False), None]
    inputs += [numbers(33, seed=7), numbers(33, seed=8), numbers(2, 7, 19, seed=9)]
    inputs += [np.full(1, 0.1, np.float32)]
    attributes = {
        "weight_shape": [19, 33], "weight_bits": 2, "input_bits": 2, "head": [norm],
        "tail": [gelu, add, leaky], "eps": 1e-5,
    }  # fmt: skip
    made = run_node("BitLinear", inputs, range(1, 9), **attributes)
    np.testing.assert_array_equal(made, evaluate("BitLinear", inputs, attributes).numpy())


def test_steps_after_a_convolution(run_node: Any) -> None:
    leaky, mul = NUMBERS["leaky"], NUMBERS["mul"]
    inputs = [numbers(2, 5, 9, 11), *layer((8, 5, 3, 3), (2, 2), 5, half=False), None]
    inputs += [numbers(8, seed=7), np.full((1,), 0.5, np.float32)]
    attributes = {
        "weight_shape": [8, 5, 3, 3], "weight_bits": 2, "input_bits": 2, "pads": [1, 1],
        "tail": [leaky, mul],
    }  # fmt: skip
    made = run_node("BitConv2d", inputs, range(1, 9), **attributes)
    np.testing.assert_array_equal(made, evaluate("BitConv2d", inputs, attributes).numpy())


def grid(bits: int, count: int = 1) -> list[Any]:
    """Scale and offset of operands between -2 and 2."""
    return [np.full(count, 4 / ((1 << bits) - 1), np.float32), np.full(count, -2, np.float32)]


@pytest.mark.parametrize("per_row", [0, 1])
@pytest.mark.parametrize(
    ("per_length", "shortest"), [((0, 0), (0, 0)), ((1, 1), (0, 0)), ((0, 0), (99, 0))]
)
def test_matmul(run_node: Any, per_row: int, per_length: Any, shortest: Any) -> None:
    a, b = np.abs(numbers(3, 2, 9, 17)), numbers(3, 2, 17, 5, seed=1)
    inputs = [a, b, *grid(4, 2), *grid(4)]
    attributes = {
        "bits": [4, 4], "per_row": per_row, "per_length": list(per_length),
        "shortest": list(shortest), "turned": 0,
    }  # fmt: skip
    made = run_node("BitMatMul", inputs, range(2, 6), **attributes)
    np.testing.assert_array_equal(made, evaluate("BitMatMul", inputs, attributes).numpy())


@pytest.mark.parametrize("per_row", [0, 1])
@pytest.mark.parametrize("turned", [0, 1])
def test_attention(run_node: Any, per_row: int, turned: int) -> None:
    q, k, v = numbers(6, 2, 9, 16), numbers(6, 2, 16, 11, seed=1), numbers(6, 2, 11, 8, seed=2)
    k = np.ascontiguousarray(k.swapaxes(-2, -1)) if turned else k
    terms = [
        numbers(2, 9, 11, seed=3),
        numbers(3, 9, 11, seed=4),
        np.full((1, 1, 1), 0.5, np.float32),
    ]
    inputs = [q, k, v, *grid(4), *grid(4, 2), *grid(4), *grid(4), *terms]
    attributes = {
        "bits": [4, 4, 4, 4], "per_row": per_row, "per_length": [0, 0, 0, 0],
        "shortest": [0, 0, 0, 0], "multiplies": [0, 0, 1], "repeats": [1, 2, 1], "turned": turned,
    }  # fmt: skip
    made = run_node("BitAttention", inputs, range(3, 11), **attributes)
    np.testing.assert_array_equal(made, evaluate("BitAttention", inputs, attributes).numpy())


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("BitGelu", {}), ("BitGelu", {"tanh": 1}), ("BitSigmoid", {}), ("Silu", {}),
        ("Unit", {"axis": -1, "least": 1e-12}), ("Unit", {"axis": 1, "least": 1e-12}),
        ("LayerNorm", {"eps": 1e-5}),
    ],
)  # fmt: skip
def test_what_stands_between(run_node: Any, op_type: str, attributes: dict[str, Any]) -> None:
    inputs = [numbers(2, 7, 33, scale=3.0)]
    if op_type == "LayerNorm":
        inputs += [numbers(33, seed=1).astype(np.float16), numbers(33, seed=2)]
    made = run_node(op_type, inputs, range(1, len(inputs)), **attributes)
    full = {"tanh": 0, **attributes} if op_type == "BitGelu" else attributes
    np.testing.assert_array_equal(made, evaluate(op_type, inputs, full).numpy())


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (9, 11), (20, 37)])
def test_means_over_pixels(run_node: Any, last: int, size: tuple[int, int]) -> None:
    x, centre = numbers(2, 5, *size), numbers(2, 5, seed=1)
    x[0, 0, 0, 0] = -0.0
    given = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if last else x
    for inputs in ([given], [given, centre]):
        made = run_node("PixelMean", inputs, (), x_last=last)
        np.testing.assert_array_equal(made, evaluate("PixelMean", inputs, {"x_last": last}).numpy())
        apart = x if len(inputs) == 1 else np.abs(x - centre[..., None, None])
        truth = apart.astype(np.float64).mean((2, 3))
        np.testing.assert_allclose(made, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_group_norm(run_node: Any, last: int, affine: bool, eps: float) -> None:
    x = numbers(2, 12, 9, 31, scale=3.0) + 5
    inputs = [np.ascontiguousarray(np.moveaxis(x, 1, -1)) if last else x]
    parts = [numbers(12, seed=1).astype(np.float16), numbers(12, seed=2)] if affine else []
    attributes = {"groups": 4, "eps": eps, "x_last": last}
    made = run_node("GroupNorm", [*inputs, *parts], range(1, 1 + len(parts)), **attributes)
    np.testing.assert_array_equal(
        made, evaluate("GroupNorm", [*inputs, *parts], attributes).numpy()
    )
    wide = [torch.from_numpy(part.astype(np.float64)) for part in (x, *parts)]
    truth = torch.nn.functional.group_norm(wide[0], 4, *wide[1:], eps=eps).numpy()
    np.testing.assert_allclose(
        np.moveaxis(made, -1, 1) if last else made, truth, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "says"),
    [
        ("PixelMean", [np.zeros((2, 3), np.float32)], {}, r"pictures are \(N, C, \.\.\.\)"),
        ("PixelMean", [np.zeros((2, 3, 0), np.float32)], {}, "has no pixel"),
        (
            "PixelMean", [np.zeros((2, 3, 4), np.float32), np.zeros((2, 4), np.float32)], {},
            r"centre is \(2, 4\), not \(2, 3\)",
        ),
        ("GroupNorm", [np.zeros((2, 3, 4), np.float32)], {"groups": 2, "eps": 1e-5}, "2 groups"),
        ("GroupNorm", [np.zeros((2, 3, 4), np.float32)], {"groups": 0, "eps": 1e-5}, "groups is 0"),
    ],
)  # fmt: skip
def test_what_pictures_are_refused(
    run_node: Any, op_type: str, inputs: Any, attributes: Any, says: str
) -> None:
    with pytest.raises(Exception, match=says):
        run_node(op_type, inputs, (), **attributes)


GOOD = {"weight_shape": [19, 33], "weight_bits": 2, "input_bits": 2}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight_bits": 9}, "weight_bits is 9, not 1 to 8"),
        ({"weight_bits": 4}, "codes take"),
        ({"weight_shape": [19, 32]}, r"the weight has 157 bytes, \(19, 32, 1, 1\) codes take 152"),
        ({"weight_shape": [19, 33, 1]}, r"weight_shape is \(19, 33, 1\)"),
        ({"weight_shape": [-19, 33]}, "weight_shape"),
        ({"weight_shape": [1 << 40, 33]}, "too large"),
        ({"tail": [99]}, "unknown step 99"),
        ({"tail": [9]}, "unknown step 9"),
        ({"head": [8]}, "operand0 is missing"),
        ({"weight_bits": 2.0}, "weight_bits is of another type"),
        ({"weight_shape": 19}, "weight_shape is of another type"),
        ({"head": "norm"}, "head is of another type"),
        ({"eps": float("nan")}, "eps is no finite number"),
        ({"eps": [1e-5]}, "eps is of another type"),
    ],
)
def test_what_a_linear_refuses(run_node: Any, change: dict[str, Any], says: str) -> None:
    inputs = [numbers(2, 7, 33), *layer((19, 33), (2, 2), 33, half=False)]
    with pytest.raises(Exception, match=says):
        run_node("BitLinear", inputs, range(1, 8), **{**GOOD, **change})


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((2, 7, 32), np.float32), "the weight takes 33 inputs"),
        (np.zeros((2, 7, 33), np.float64), "must be float32, or uint8 codes"),
        (np.zeros((), np.float32), "the weight takes 33 inputs"),
    ],
)
def test_what_a_run_refuses(run_node: Any, x: Any, says: str) -> None:
    with pytest.raises(Exception, match=says):
        run_node("BitLinear", [x, *layer((19, 33), (2, 2), 33, half=False)], range(1, 8), **GOOD)


def test_no_rows_give_no_rows(run_node: Any) -> None:
    x = np.zeros((0, 7, 33), np.float32)
    made = run_node("BitLinear", [x, *layer((19, 33), (2, 2), 33, half=False)], range(1, 8), **GOOD)
    assert made.shape == (0, 7, 19)


def test_weights_must_be_initialisers(run_node: Any) -> None:
    inputs = [numbers(2, 7, 33), *layer((19, 33), (2, 2), 33, half=False)]
    with pytest.raises(LoadError, match="must be an initialiser"):
        run_node("BitLinear", inputs, range(2, 8), **GOOD)


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("LayerNorm", [numbers(2, 33), numbers(33)], {"eps": 1e-5}),
        ("GroupNorm", [numbers(2, 4, 9), numbers(4)], {"groups": 2, "eps": 1e-5}),
        ("BitLinear", [numbers(2, 33), *layer((19, 33), (2, 2), 33, half=False)], GOOD),
    ],
)
def test_optional_weights_are_never_left_out_without_a_word(
    run_node: Any, op_type: str, inputs: Any, attributes: Any
) -> None:
    with pytest.raises(Exception, match="must be an initialiser"):
        run_node(op_type, inputs, range(1, len(inputs) - 1), **attributes)


def test_another_version_of_the_operators_is_refused(ort: Any) -> None:
    import onnx

    from bitcompress.backends.session import session_of

    inputs = [numbers(2, 7, 33), *layer((19, 33), (2, 2), 33, half=False)]
    model = onnx.load_from_string(one_node("BitLinear", inputs, range(1, 8), **GOOD))
    next(o for o in model.opset_import if o.domain == "bitcompress").version = VERSION + 1
    with pytest.raises(Unavailable, match="has version 2 of the operators"):
        session_of(model.SerializeToString(), "the file", 1)
