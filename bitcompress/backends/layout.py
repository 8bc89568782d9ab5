"""Pictures of packed convolutions lie channels last, as the kernels read them.

Every BitConv2d takes and gives channels last; what can work on such pictures between them follows
(follow.py), tokens are pictures seen in another shape, and what does not follow is given the
pictures as it knows them. Only orders in memory change, no number.
"""

from __future__ import annotations

from typing import Any

from bitcompress.backends.follow import FOLLOW
from bitcompress.backends.schema import DOMAIN
from bitcompress.backends.twins import Twins


def channels_last(model: Any) -> None:
    """Give all BitConv2d of an onnx_ir.Model channels last, and what stands between them."""
    twins = Twins(model.graph)
    for node in list(model.graph):
        if node.domain == DOMAIN and node.op_type == "BitConv2d":
            _turn_convolution(twins, node)
        elif (node.domain, node.op_type) in FOLLOW:
            FOLLOW[node.domain, node.op_type](twins, node)


def _turn_convolution(twins: Twins, node: Any) -> None:
    import onnx_ir as ir

    node.replace_input_with(0, twins.of(node, node.inputs[0]))
    for name in ("x_last", "y_last"):
        node.attributes[name] = ir.AttrInt64(name, 1)
    twins.give_back(node)
