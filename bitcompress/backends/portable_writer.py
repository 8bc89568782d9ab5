"""Writes standard nodes and initialisers in place of one operator of ours (portable.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitcompress.backends.nudge import Nudged, Nudges
from bitcompress.backends.schema import OPERATORS

OPSET = {2: 25, 4: 21, 8: 21}
"""The first opset of ONNX that has unsigned integers of so many bits."""


def unsigned(bits: int) -> Any:
    """The type of onnx_ir of codes of 2, 4 or 8 bits."""
    import onnx_ir as ir

    return {2: ir.DataType.UINT2, 4: ir.DataType.UINT4, 8: ir.DataType.UINT8}[bits]


class Writer:
    """Writes the nodes that stand for one of ours; `nudges` counts offsets that become whole."""

    def __init__(self, node: Any, nudges: Nudges | None = None) -> None:
        self.node, self.nudges = node, nudges
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.narrowest = 8
        operator = OPERATORS[node.op_type]
        self.inputs = dict(zip((port.name for port in operator.inputs), node.inputs, strict=False))
        self.attributes: dict[str, Any] = {
            a.name: node.attributes[a.name].value if a.name in node.attributes else a.default
            for a in operator.attributes
        }

    def op(self, name: str, *inputs: Any, **attributes: Any) -> Any:
        """One standard node; gives its output."""
        import onnx_ir as ir

        made = ir.node(name, list(inputs), attributes=attributes or None)
        self.nodes.append(made)
        made.outputs[0].name = f"{self.node.outputs[0].name}_{len(self.nodes)}"
        return made.outputs[0]

    def constant(self, array: Any, dtype: Any = None) -> Any:
        """An initialiser; `dtype` is of onnx_ir for what NumPy has no type of."""
        import onnx_ir as ir

        name = f"{self.node.outputs[0].name}_c{len(self.constants)}"
        if dtype is None:
            tensor = ir.tensor(np.asarray(array), name=name)
        else:
            tensor = ir.Tensor(array.astype(dtype.numpy()), dtype=dtype, name=name)
        value = ir.Value(name=name, const_value=tensor)
        value.dtype, value.shape = tensor.dtype, ir.Shape(array.shape)
        self.constants.append(value)
        return value

    def number(self, value: float) -> Any:
        """A float32 of no axis."""
        return self.constant(np.array(value, np.float32))

    def known(self, port: str) -> Any:
        """The numbers of an initialiser as float32; None where it is left out."""
        value = self.inputs.get(port)
        return None if value is None else np.asarray(value.const_value.numpy())

    def reals(self, x: Any, grid: tuple[Any, Any], bits: int, read: Any = None) -> Any:
        """x cut into codes by a grid and read as reals by `read`, or by the same grid.

        Shapes: grids broadcast against x.
        """
        scale, offset = grid
        apart = self.op("Sub", x, offset)
        top = self.number((1 << bits) - 1)
        codes = self.op("Round", self.op("Div", apart, scale))
        codes = self.op("Clip", codes, self.number(0.0), top)
        scale, offset = grid if read is None else read
        return self.op("Add", self.op("Mul", codes, scale), offset)

    @property
    def layer(self) -> str:
        """What the layer is called."""
        weight = self.inputs.get("weight")
        name = self.node.name if weight is None else weight.name.removesuffix(".weight")
        return str(name or "").removeprefix("model.").removeprefix("net.")

    def noted(self, *grids: Nudged | None) -> bool:
        """Whether grids could be nudged, which is counted."""
        if self.nudges is None:
            return False
        moves = [None if grid is None else grid.moved for grid in grids]
        known = [move for move in moves if move is not None]
        done = len(known) == len(moves)
        self.nudges.note(max(known) if done else None, self.layer)
        return done

    def by_zero_point(self, x: Any, cut: Nudged, read: Nudged, bits: int) -> Any:
        """x cut by QuantizeLinear and read by DequantizeLinear, and nothing beside."""
        self.narrowest = min(self.narrowest, bits)
        axis = self.channel_axis if cut.scale.size > 1 else 0
        pairs = [
            (self.constant(grid.scale), self.constant(grid.zero, unsigned(bits)))
            for grid in (cut, read)
        ]
        codes = self.op("QuantizeLinear", x, *pairs[0], axis=axis)
        return self.op("DequantizeLinear", codes, *pairs[1], axis=0)

    def quantized(self, x: Any, grid: tuple[Any, Any], bits: int, read: tuple[Any, Any]) -> Any:
        """`reals` by way of QuantizeLinear, for arrays of one number or one a channel (axis 1, or
        the last): x has its channels there."""
        scale, offset, axis = grid[0].reshape(-1), grid[1], self.channel_axis
        view = [-1, 1, 1] if axis == 1 else [-1]
        arrays = self.constant(offset.reshape(view if offset.size > 1 else []))
        apart = self.op("Sub", x, arrays)
        if bits not in OPSET or (scale == 0).any():
            wide = scale.reshape(view if scale.size > 1 else [])
            return self.reals(apart, (self.constant(wide), self.number(0.0)), bits, tuple(
                self.number(float(part)) for part in read
            ))  # fmt: skip
        self.narrowest = min(self.narrowest, bits)
        zero = self.constant(
            np.zeros(scale.shape if scale.size > 1 else (), np.uint8), unsigned(bits)
        )
        first = self.constant(scale if scale.size > 1 else scale.reshape(()))
        codes = self.op("QuantizeLinear", apart, first, zero, axis=axis if scale.size > 1 else 0)
        back = self.op("DequantizeLinear", codes, self.number(float(read[0])), axis=0)
        return self.op("Add", back, self.number(float(read[1])))

    @property
    def channel_axis(self) -> int:
        """Which axis of x holds the channels."""
        return 1 if self.node.op_type == "BitConv2d" else -1
