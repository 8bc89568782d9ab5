"""What stands beside a packed layer becomes a step of it, so that numbers pass memory once."""

from __future__ import annotations

from typing import Any


def fuse(model: Any) -> None:
    """Fold norms, activations and sums into the packed layers beside them (an onnx_ir.Model)."""
