"""A convolution by words of 32 channels is several in a file, each with its part of the weight.

The translation of torch's node does not see numbers, so it gives every part the whole weight and a
note of what part it is; `split_words` cuts the weights once they are there.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from bitcompress.packed.dab import WORD
from bitcompress.packed.stored import pack, unpack

WORDS = "bitcompress.words"
"""The note on a node: the number of its word, then the shape of the whole weight."""


def split_words(model: Any) -> None:
    """Give each part its own stored bits (an onnx_ir.Model with its initialisers)."""
    import onnx_ir as ir

    graph = model.graph
    for node in list(graph):
        if WORDS not in node.metadata_props:
            continue
        number, *shape = json.loads(node.metadata_props[WORDS])
        whole = node.inputs[1]
        stored = torch.from_numpy(np.array(whole.const_value.numpy()).reshape(-1))
        bits = unpack(stored, 1, shape)[:, number * WORD : (number + 1) * WORD]
        name = f"{whole.name.removesuffix('.weight')}.word{number}.weight"
        tensor = ir.tensor(pack(bits.contiguous(), 1).numpy(), name=name)
        value = ir.Value(name=name, const_value=tensor)
        value.dtype, value.shape = tensor.dtype, ir.Shape(tensor.numpy().shape)
        if name not in graph.initializers:
            graph.register_initializer(value)
        node.replace_input_with(1, graph.initializers[name])
