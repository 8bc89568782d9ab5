"""What an exported file says of its widths, where no packed folder is at hand to ask."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitcompress.backends.schema import DOMAIN
from bitcompress.bench import graphs

FLOAT = 32


def widths_of_file(path: Path) -> tuple[int, int]:
    """The widths of most of the packed weights of a file, and of their inputs.

    In a portable file they are those of the codes that its standard operators read and write.
    Returns: 32 for what it does not tell, as without the package onnx.
    """
    if graphs.missing("onnx"):
        return FLOAT, FLOAT
    import onnx

    graph = onnx.load(str(path)).graph
    weights: Counter[int] = Counter()
    acts: Counter[int] = Counter()
    for count, weight_bits, act_bits in (*_packed(graph), *_portable(graph)):
        if weight_bits:
            weights[weight_bits] += count
        if act_bits:
            acts[act_bits] += count
    most = [found.most_common(1)[0][0] if found else FLOAT for found in (weights, acts)]
    return most[0], most[1]


def _packed(graph: Any) -> Iterator[tuple[int, int, int]]:
    """Of each layer of ours: how many weights, their bits, and those of its input."""
    for node in graph.node:
        told = {attribute.name: attribute for attribute in node.attribute}
        if node.domain == DOMAIN and "weight_bits" in told:
            count = math.prod(told["weight_shape"].ints)
            yield count, told["weight_bits"].i, told["input_bits"].i


def _portable(graph: Any) -> Iterator[tuple[int, int, int]]:
    """Of each standard operator on codes: how many there are of them and in how many bits."""
    from onnx import TensorProto

    bits = {TensorProto.UINT2: 2, TensorProto.UINT4: 4, TensorProto.UINT8: 8}
    known = {value.name: value for value in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in known:
            weight = known[node.input[0]]
            yield math.prod(weight.dims), bits.get(weight.data_type, 0), 0
        elif node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[2] in known:
            yield 1, 0, bits.get(known[node.input[2]].data_type, 0)
