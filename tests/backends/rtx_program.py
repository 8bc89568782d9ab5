"""Run by test_tensorrt_rtx.py in a process of its own: TensorRT for RTX takes the plugins.

    python rtx_program.py LIBRARY create|parse MODEL

create: prints the operators whose creators it lists, and what becomes of a good and of a bad node.
parse: reads a model; the log says which plugin was found and made. Version 1.7 then ends the
process when the plugin joins the network: nothing after that can be tested.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorrt_rtx_bindings as trt

GOOD = {"weight_shape": [8, 4, 3, 3], "weight_bits": [2], "input_bits": [2], "tail": [4]}
BAD = {**GOOD, "weight_bits": [9]}


def made(registry: trt.IPluginRegistry, fields: dict[str, list[int]]) -> bool:
    """Whether a plugin comes of these fields."""
    creator = registry.get_creator("BitConv2d", "1", "bitcompress")
    kept = [(name, np.array(values, dtype=np.int32)) for name, values in fields.items()]
    given = [trt.PluginField(n, v, trt.PluginFieldType.INT32) for n, v in kept]
    collection = trt.PluginFieldCollection(given)
    return creator.create_plugin("a node", collection, trt.TensorRTPhase.BUILD) is not None


def main(library: str, what: str, model: str) -> None:
    logger = trt.Logger(trt.Logger.VERBOSE if what == "parse" else trt.Logger.WARNING)
    builder = trt.Builder(logger)
    registry = builder.get_plugin_registry()
    registry.load_library(library)
    if what == "parse":
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        print("parsed", parser.parse(Path(model).read_bytes()))
        return
    ours = {c.name for c in registry.all_creators if c.plugin_namespace == "bitcompress"}
    print("creators", *sorted(ours))
    print("good", made(registry, GOOD))
    print("bad", made(registry, BAD))


if __name__ == "__main__":
    main(*sys.argv[1:])
