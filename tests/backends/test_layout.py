"""Channels last between packed convolutions: the same bits, no transposition without a need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bitcompress.backends import schema
from bitcompress.backends.layout import channels_last

from .conftest import numbers
from .test_operators import layer

SIZES = (2, 5, 6, 7)
PICTURE, TOKENS = ("n", 5, "h", "w"), ("n", "h*w", 5)


class Graph:
    """A graph whose values have sizes, as torch's exporter leaves them."""

    def __init__(self) -> None:
        import onnx_ir as ir

        self.ir = ir
        x = self.x = ir.Value(
            name="x", shape=ir.Shape(PICTURE), type=ir.TensorType(ir.DataType.FLOAT)
        )
        self.graph = ir.Graph(
            [x], [], nodes=[], opset_imports={"": 20, schema.DOMAIN: schema.VERSION}
        )
        self.count = 0
        whole = self.op("Shape", [x], (4,), kind=ir.DataType.INT64)
        parts = [
            self.op(
                "Gather",
                [whole, self.constant(np.array([k], np.int64))],
                (1,),
                kind=ir.DataType.INT64,
            )
            for k in range(4)
        ]
        self.sizes = {"n": parts[0], "h": parts[2], "w": parts[3]}
        self.sizes["h*w"] = self.op("Mul", parts[2:], (1,), kind=ir.DataType.INT64)

    def constant(self, array: Any) -> Any:
        """An initialiser."""
        self.count += 1
        name = f"c{self.count}"
        value = self.ir.Value(name=name, const_value=self.ir.tensor(array, name=name))
        value.dtype, value.shape = self.ir.tensor(array).dtype, self.ir.Shape(array.shape)
        self.graph.register_initializer(value)
        return value

    def op(
        self, kind_: str, inputs: list[Any], *shapes: Any, kind: Any = None, domain: str = "",
        **attributes: Any,
    ) -> Any:  # fmt: skip
        """A node; its output, or its outputs where it has several."""
        node = self.ir.node(
            kind_, inputs, attributes=attributes, domain=domain, num_outputs=len(shapes)
        )
        for out, shape in zip(node.outputs, shapes, strict=True):
            self.count += 1
            out.name, out.shape = f"v{self.count}", self.ir.Shape(shape)
            out.dtype = kind or self.ir.DataType.FLOAT
        self.graph.append(node)
        return node.outputs[0] if len(shapes) == 1 else list(node.outputs)

    def conv(self, x: Any, **more: Any) -> Any:
        """A packed convolution of 5 channels to 5."""
        parts = [self.constant(np.asarray(p)) for p in layer((5, 5, 3, 3), (2, 2), 5, half=False)]
        return self.op(
            "BitConv2d", [x, *parts], x.shape, domain=schema.DOMAIN, weight_shape=[5, 5, 3, 3],
            weight_bits=2, input_bits=2, pads=[1, 1], **more,
        )  # fmt: skip

    def reshape(self, x: Any, shape: tuple[Any, ...]) -> Any:
        """A Reshape by sizes that follow from the input."""
        parts = [
            self.sizes[s] if isinstance(s, str) else self.constant(np.array([s], np.int64))
            for s in shape
        ]
        sizes = self.op("Concat", parts, (len(shape),), kind=self.ir.DataType.INT64, axis=0)
        return self.op("Reshape", [x, sizes], shape)

    def turn(self, x: Any, perm: list[int]) -> Any:
        """A Transpose."""
        return self.op("Transpose", [x], tuple(x.shape[axis] for axis in perm), perm=perm)

    def tokens(self, x: Any) -> Any:
        """A picture as tokens, as x.flatten(2).transpose(1, 2) has it."""
        return self.turn(self.reshape(x, ("n", 5, "h*w")), [0, 2, 1])

    def picture(self, x: Any) -> Any:
        """Tokens as a picture."""
        return self.reshape(self.turn(x, [0, 2, 1]), PICTURE)

    def model(self, out: Any) -> Any:
        """The model that gives a value."""
        self.graph.outputs.append(out)
        return self.ir.Model(self.graph, ir_version=10)


def through_tokens(g: Graph) -> Any:
    tokens = g.op("Sigmoid", [g.tokens(g.conv(g.x))], TOKENS)
    return g.conv(g.picture(tokens))


def gated(g: Graph) -> Any:
    """A picture of tokens times one of a convolution, both added up as tokens."""
    tokens = g.tokens(g.conv(g.x))
    picture = g.picture(tokens)
    gate = g.op("Sigmoid", [g.conv(picture)], PICTURE)
    mixed = g.tokens(g.op("Mul", [picture, gate], PICTURE))
    return g.conv(g.picture(g.op("Add", [mixed, tokens], TOKENS)))


def channels_to_pixels(g: Graph) -> Any:
    """What lies with channels first by nature is transposed once, however it is written."""
    made = g.turn(
        g.op("Softmax", [g.turn(g.tokens(g.conv(g.x)), [0, 2, 1])], ("n", 5, "h*w")), [0, 2, 1]
    )
    picture = g.picture(made)
    return g.conv(g.op("Add", [g.conv(picture), picture], PICTURE))


def split_and_joined(g: Graph) -> Any:
    first, second = g.op(
        "Split", [g.conv(g.x)], ("n", 2, "h", "w"), ("n", 3, "h", "w"), axis=1, num_outputs=2
    )
    return g.conv(g.op("Concat", [second, first], PICTURE, axis=-3))


def cut_off(g: Graph) -> Any:
    ends = [g.constant(np.array(k, np.int64)) for k in ([1, 0], [9, 3], [2, 1])]
    part = g.op("Slice", [g.conv(g.x), *ends], ("n", 3, "h-1", "w"))
    return g.op("Relu", [part], ("n", 3, "h-1", "w"))


def with_constants(g: Graph) -> Any:
    each = g.op("Mul", [g.conv(g.x), g.constant(numbers(5, 1, 1, seed=2))], PICTURE)
    one = g.op("Sub", [each, g.constant(np.array(0.5, np.float32))], PICTURE)
    return g.conv(g.op("Add", [g.constant(numbers(1, 5, 1, 1)), one], PICTURE))


def read_by_two(g: Graph) -> Any:
    """Somebody else needs channels first: then they are there too."""
    y = g.conv(g.x)
    soft = g.op("Softmax", [y], PICTURE, axis=3)
    return g.op("Add", [soft, g.op("Relu", [y], PICTURE)], PICTURE)


def other_moves(g: Graph) -> Any:
    """Reshapes and transpositions that mix channels with pixels stay."""
    y = g.turn(g.reshape(g.conv(g.x), ("n", "h*w", 5)), [0, 2, 1])
    z = g.turn(g.reshape(y, ("n", "h", 5, "w")), [0, 2, 1, 3])
    return g.conv(g.op("Relu", [z], PICTURE))


CASES: dict[Callable[[Graph], Any], int] = {
    through_tokens: 0, gated: 0, channels_to_pixels: 2, split_and_joined: 0, cut_off: 0,
    with_constants: 0, read_by_two: 2, other_moves: 4,
}  # fmt: skip
"""Models, and how many transpositions they need besides those at both ends."""


def run(ort: Any, model: Any, x: Any) -> Any:
    """What a model gives."""
    import onnx_ir

    from bitcompress.backends.session import session_of

    data = bytes(onnx_ir.to_proto(model).SerializeToString())
    return session_of(data, "layouts", 1).run(None, {"x": x})[0]


@pytest.mark.ort
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_channels_last_change_no_bit(ort: Any, case: Callable[[Graph], Any]) -> None:
    from onnx_ir.passes import common

    schema.register()
    x, made = numbers(*SIZES), Graph()
    model = made.model(case(made))
    want = run(ort, model, x)
    channels_last(model)
    common.RemoveUnusedNodesPass()(model)
    np.testing.assert_array_equal(run(ort, model, x), want)
    assert all(
        node.attributes["x_last"].value == node.attributes["y_last"].value == 1
        for node in model.graph
        if node.op_type == "BitConv2d"
    )
    left = sum(node.op_type == "Transpose" for node in model.graph)
    assert left - 2 <= CASES[case]
