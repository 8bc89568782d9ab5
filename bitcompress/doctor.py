"""What is installed, what the machine can do, and what is missing for what."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from bitcompress import native
from bitcompress.backends.schema import VERSION
from bitcompress.backends.session import library, runtime
from bitcompress.errors import Unavailable
from bitcompress.measure.report import machine, versions

OPTIONAL: dict[str, tuple[str, str]] = {
    "accelerate": ("training (recipes that tune bounds or weights)", "bitcompress[train]"),
    "matplotlib": ("the picture of a report", "bitcompress[report]"),
    "PIL": ("reading and writing pictures", "bitcompress[images]"),
    "spandrel": ("more super-resolution architectures", "bitcompress[sr]"),
    "onnx": ("`export`, and ONNX Runtime beside ours in `bench`", "bitcompress[onnx]"),
    "onnxscript": ("`export`", "bitcompress[onnx]"),
    "onnxruntime": ("`export`, `run model.onnx`, and beside ours in `bench`", "bitcompress[onnx]"),
}


def _operator_library() -> dict[str, Any]:
    """Whether ONNX Runtime can run exported files here: versions, and the reason where not."""
    try:
        return {
            "ok": True, "version": runtime().__version__, "library": str(library()),
            "operators": VERSION, "reason": "",
        }  # fmt: skip
    except Unavailable as missing:
        return {"ok": False, "operators": VERSION, "reason": str(missing)}


def examine() -> dict[str, Any]:
    """Versions, machine, native kernels, and each optional package with its pip line."""
    kernels = native.kernels()
    return {
        "versions": versions(),
        "machine": machine(),
        "native": {
            "ok": kernels is not None,
            "levels": list(kernels.isa_levels()) if kernels is not None else [],
            "reason": native.why_not(),
        },
        "onnxruntime": _operator_library(),
        "optional": {
            name: {
                "ok": find_spec(name) is not None,
                "for": purpose,
                "install": f"pip install '{extra}'",
            }
            for name, (purpose, extra) in OPTIONAL.items()
        },
    }
