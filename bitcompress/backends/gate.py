"""The gate of every export: the file is valid, opens, and computes what the packed model computes.

Each node of ours is compared on its own inputs with the definition in torch (the same bits, or
1e-5 where reals pass through other libraries); the whole at several sizes with the packed model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitcompress.backends import reference
from bitcompress.backends.rolls import Turn
from bitcompress.backends.schema import DOMAIN, OPERATORS
from bitcompress.backends.session import session_of
from bitcompress.backends.taps import Tap, paired, run_packed
from bitcompress.errors import GateError
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.intercept import Rewritten
from bitcompress.packed.binary import as_pixels
from bitcompress.parity import compared, parity

MIN_DB = 50.0
"""How close the outputs of the packed model and of the file must be."""
PORTABLE_DB = 25.0
"""Likewise where sums are float32: their rounding flips codes, and a flip of 2 bits spreads."""
LAYERS = ("BitConv2d", "BitConv2dCodes", "BitLinear", "BitLinearCodes")
TOLERANCE = 1e-5
"""Of a node on equal inputs, relative to its largest number."""


@dataclass(frozen=True)
class Whole:
    """The whole model at one size: how close, and which share of its codes differ."""

    shape: tuple[int, ...]
    psnr_db: float
    unequal_share: float
    flipped_codes: float

    def row(self) -> dict[str, Any]:
        """For reports."""
        return {
            "input": list(self.shape), "psnr_db": self.psnr_db,
            "unequal_share": self.unequal_share, "flipped_codes": self.flipped_codes,
        }  # fmt: skip


def check_file(proto: Any) -> None:
    """What onnx thinks of the file. Raises: GateError."""
    import onnx

    from bitcompress.backends import schema

    schema.register()
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise GateError(
            f"check: onnx refuses the file: {' '.join(str(error).split())[:300]}"
        ) from error


class Opened:
    """A file with every input and output of our nodes made an output of the graph."""

    def __init__(self, proto: Any) -> None:
        import onnx

        self.nodes = [node for node in proto.graph.node if node.domain == DOMAIN]
        self.constants = {
            tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer
        }
        self.outputs = [value.name for value in proto.graph.output]
        self.inputs = [value.name for value in proto.graph.input]
        types = onnx.TensorProto
        codes = {n.output[0] for n in self.nodes if OPERATORS[n.op_type].codes}
        wide = onnx.ModelProto()
        wide.CopyFrom(proto)
        seen = {*self.constants, *self.outputs, *self.inputs}
        shown = []
        for node in self.nodes:
            for name in (*node.input, *node.output):
                if name and name not in seen:
                    seen.add(name)
                    shown.append(name)
                    wide.graph.output.append(
                        onnx.helper.make_tensor_value_info(
                            name, types.UINT8 if name in codes else types.FLOAT, None
                        )
                    )
        self.shown = shown
        self.session = session_of(wide.SerializeToString(), "the exported file", 1)

    def run(self, named: Mapping[str, Tensor]) -> dict[str, Any]:
        """Every value that our nodes read or write, and the outputs."""
        feed = {name: value.numpy() for name, value in named.items()}
        names = [*self.outputs, *self.shown]
        try:
            made = dict(zip(names, self.session.run(names, feed), strict=True))
        except Exception as error:
            sizes = [tuple(value.shape) for value in named.values()]
            raise GateError(
                f"run: ONNX Runtime fails on {sizes}: {' '.join(str(error).split())[:300]}"
            ) from error
        return {**self.constants, **feed, **made}

    def node_inputs(self, node: Any, values: Mapping[str, Any]) -> list[Any]:
        """The arrays that a node reads; None for those that it leaves out."""
        return [values[name] if name else None for name in node.input]


def attributes_of(node: Any) -> dict[str, Any]:
    """The attributes of a node by name."""
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def check_nodes(opened: Opened, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every node of ours against its definition on the same inputs, a row an operator.

    Raises: GateError where one is farther off than TOLERANCE.
    """
    rows: dict[str, dict[str, Any]] = {}
    for node in opened.nodes:
        with torch.no_grad():
            truth = reference.evaluate(
                node.op_type, opened.node_inputs(node, values), attributes_of(node)
            ).numpy()
        made = values[node.output[0]]
        if made.shape != truth.shape:
            raise GateError(
                f"operators: {node.op_type} {node.name} gives {made.shape}, not {truth.shape}"
            )
        size = max(float(np.abs(truth).max(initial=0.0)), 1e-30)
        apart = float(np.abs(made.astype(np.float64) - truth).max(initial=0.0)) / size
        if not apart <= TOLERANCE:
            raise GateError(
                f"operators: {node.op_type} {node.name} is {apart:.2g} from its definition on "
                f"equal inputs, where {TOLERANCE:g} is allowed"
            )
        row = rows.setdefault(
            node.op_type, {"operator": node.op_type, "nodes": 0, "apart": 0.0, "unequal": 0}
        )
        row["nodes"] += 1
        row["apart"] = max(row["apart"], apart)
        row["unequal"] += int((made != truth).sum())
    return list(rows.values())


def check_whole(
    model: Rewritten,
    opened: Opened,
    named: Mapping[str, Tensor],
    peak: float | None,
    least: float = MIN_DB,
    turned: Mapping[int, Turn] | None = None,
) -> tuple[Whole, dict[str, Any]]:
    """All outputs of the file against the packed model's. Raises: GateError below `least` dB."""
    truth, taps = run_packed(model, named)
    values = opened.run(named)
    shape = tuple(next(iter(named.values())).shape)
    wants = [compared(tensor) for tensor in tensors_of(truth)] or [compared(truth)]
    if len(wants) != len(opened.outputs):
        raise GateError(f"model: the file has {len(opened.outputs)} outputs, not {len(wants)}")
    worst, unequal, total = math.inf, 0.0, 0
    for name, want in zip(opened.outputs, wants, strict=True):
        made = compared(torch.from_numpy(values[name]))
        if made.shape != want.shape:
            raise GateError(
                f"model: the file makes {tuple(made.shape)} of {shape}, not {tuple(want.shape)}"
            )
        found = parity(want, made, peak if name == opened.outputs[0] else None)
        if found.psnr_db < least:
            raise GateError(
                f"model: on an input of {shape} the {name} of the file is {found.psnr_db:.1f} dB "
                f"from the packed model, {least:g} dB are needed"
            )
        worst, total = min(worst, found.psnr_db), total + want.numel()
        unequal += float((want != made).sum())
    flipped = _flipped(opened, values, taps, turned or {})
    return Whole(shape, worst, unequal / max(total, 1), flipped), values


def _flipped(
    opened: Opened,
    values: Mapping[str, Any],
    taps: Sequence[Tap],
    turned: Mapping[int, Turn],
) -> float:
    """The share of codes that differ between torch and the file; NaN where layers do not pair."""
    layers = [node for node in opened.nodes if node.op_type in LAYERS]
    if len(layers) != len(taps):
        return math.nan
    flipped = total = 0
    for node, (number, tap) in zip(layers, paired(layers, taps), strict=True):
        x = torch.roll(tap.x, *turned[number]) if number in turned else tap.x
        attributes = attributes_of(node)
        inputs = opened.node_inputs(node, values)
        if tap.kind == "linear" and node.op_type.startswith("BitConv2d"):  # a block of tokens
            x = as_pixels(x)
        mine = reference.codes(node.op_type, inputs, attributes)
        if attributes["input_bits"] == 1 and (len(inputs) < 8 or inputs[7] is None):
            rows = x.permute(0, 2, 3, 1) if x.dim() == 4 else x
            theirs = (rows >= 0).to(torch.uint8)  # a threshold of each sample was taken off before
        else:
            plain = [x.numpy(), *inputs[1:9]]
            theirs = reference.codes(node.op_type, plain, {**attributes, "head": (), "x_last": 0})
        if mine.shape != theirs.shape:
            return math.nan
        flipped += int((mine != theirs).sum())
        total += mine.numel()
    return flipped / max(total, 1)
