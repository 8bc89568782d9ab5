"""What a layer becomes: trainable blocks on grids, and their packed twins."""

from __future__ import annotations

from bitcompress.layers.geometry import CONVOLUTIONS, TRANSPOSED, ConvGeometry
from bitcompress.layers.packed import PackedConv2d, PackedLinear, PackedMatmul
from bitcompress.layers.quantized import (
    QUANT_LAYERS,
    QuantConv2d,
    QuantLayer,
    QuantLinear,
    QuantMatmul,
    SplitLinear,
    Widths,
)

__all__ = [
    "CONVOLUTIONS",
    "QUANT_LAYERS",
    "TRANSPOSED",
    "ConvGeometry",
    "PackedConv2d",
    "PackedLinear",
    "PackedMatmul",
    "QuantConv2d",
    "QuantLayer",
    "QuantLinear",
    "QuantMatmul",
    "SplitLinear",
    "Widths",
]
