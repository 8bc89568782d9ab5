"""TensorRT for RTX, which lists creators and makes plugins without a GPU; see `make test-rtx`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitcompress.backends import schema
from bitcompress.backends.tensorrt import WITHOUT

PROGRAM = Path(__file__).with_name("rtx_program.py")
PACKAGES = os.environ.get("BITCOMPRESS_RTX", "")
LIBRARY = os.environ.get("BITCOMPRESS_TENSORRT_PLUGINS", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PACKAGES and LIBRARY),
        reason="TensorRT for RTX and the plugins are not named here: make test-rtx",
    ),
]


def run(what: str, model: str = "") -> subprocess.CompletedProcess[str]:
    found = {**os.environ, "PYTHONPATH": PACKAGES}
    command = [sys.executable, str(PROGRAM), LIBRARY, what, model]
    return subprocess.run(
        command, env=found, capture_output=True, text=True, check=False, timeout=120
    )


def test_creators_are_listed_and_make_plugins() -> None:
    done = run("create")
    assert done.returncode == 0, done.stderr
    listed, good, bad = done.stdout.splitlines()
    assert listed == " ".join(["creators", *sorted(set(schema.OPERATORS) - set(WITHOUT))])
    assert good == "good True" and bad == "bad False"
    assert "BitConv2d: the attribute weight_bits holds 9" in done.stderr


def test_the_parser_finds_the_plugin_of_a_node(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    numbers = {
        "w": np.zeros(72, np.uint8),
        "s": np.ones(1, np.float32),
        "o": np.zeros(1, np.float32),
    }
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in numbers.items()]
    node = onnx.helper.make_node(
        "BitConv2d", ["x", "w", "s", "o", "s", "o"], ["y"], domain=schema.DOMAIN,
        weight_shape=[8, 4, 3, 3], weight_bits=2, input_bits=2, pads=[1, 1],
    )  # fmt: skip
    value = onnx.helper.make_tensor_value_info
    x, y = value("x", 1, [1, 4, 8, 8]), value("y", 1, None)
    graph = onnx.helper.make_graph([node], "g", [x], [y], weights)
    sets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid(schema.DOMAIN, 1)]
    model = onnx.helper.make_model(graph, opset_imports=sets, ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    done = run("parse", str(tmp_path / "model.onnx"))
    assert "Successfully created plugin: BitConv2d" in done.stdout + done.stderr
