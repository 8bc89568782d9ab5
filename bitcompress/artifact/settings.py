"""The numbers that make a layer what it is beside its tensors: sizes, widths, geometry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from bitcompress.artifact import checks
from bitcompress.errors import LoadError, UsageError
from bitcompress.layers import (
    ConvGeometry,
    PackedConv2d,
    PackedLinear,
    PackedMatmul,
    QuantConv2d,
    QuantLinear,
    QuantMatmul,
)
from bitcompress.layers.geometry import PaddingMode
from bitcompress.packed import packed_bytes
from bitcompress.quant.spec import MAX_BITS, MIN_BITS
from bitcompress.quant.uniform import UniformQuantizer

MODES = ("zeros", "reflect", "replicate", "circular")
MAX_STEP = 1 << 15
"""No stride, padding or dilation in a file is larger."""

Shapes = dict[str, tuple[int, ...]]
GRID = ("lower", "upper", "unit")


@dataclass(frozen=True)
class Weighted:
    """A linear or a convolution."""

    shape: tuple[int, ...]
    bits: tuple[int, int]
    """Of the weight and of the input."""
    groups: int
    """Grids of the weight: 1, or one an output channel."""
    geometry: ConvGeometry | None = None

    @classmethod
    def of(cls, layer: Any) -> Weighted:
        """The settings of a packed or simulated layer."""
        geometry = getattr(layer, "geometry", None)
        if isinstance(layer, PackedLinear | PackedConv2d):
            bits = (layer.weight_bits, layer.input_bits)
            return cls(tuple(layer.weight_shape), bits, layer.weight_scale.numel(), geometry)
        assert isinstance(layer, QuantLinear | QuantConv2d)
        bits = (layer.weight_quantizer.spec.bits, layer.input_quantizer.spec.bits)
        groups = layer.weight_quantizer.lower.numel()
        return cls(tuple(layer.weight.shape), bits, groups, geometry)

    def to_json(self) -> dict[str, Any]:
        """Their form in the index."""
        found: dict[str, Any] = {"shape": self.shape, "bits": self.bits, "groups": self.groups}
        if self.geometry is not None:
            g = self.geometry
            found["geometry"] = [
                g.stride, g.padding, g.dilation, g.groups, g.mode, g.margin, g.trim,
                *([[g.line, g.up, g.cut]] if g.line or g.up is not None else []),
            ]  # fmt: skip
        return found

    @classmethod
    def from_json(cls, spec: dict[str, Any], what: str, dimensions: int) -> Weighted:
        """The settings in an index. Raises: LoadError where they are impossible."""
        shape = checks.shape(checks.entry(spec, "shape", what), f"the weight of {what}")
        if len(shape) != dimensions or 0 in shape:
            raise LoadError(
                f"the weight of {what} is {shape}; {dimensions} sizes, none 0, are needed"
            )
        geometry = None
        if dimensions == 4:
            geometry = _geometry(checks.entry(spec, "geometry", what), f"the geometry of {what}")
            parts = geometry.groups * math.prod(geometry.up or ())
            if shape[0] % parts:
                raise LoadError(f"{what} has {shape[0]} outputs in {parts} groups")
            if geometry.line and shape[2] != 1:
                raise LoadError(f"the weight of {what} is {shape}: lines have a height of 1")
        groups = checks.integer(checks.entry(spec, "groups", what), 1, shape[0], f"grids of {what}")
        if groups not in (1, shape[0]):
            raise LoadError(
                f"{what} has {groups} grids for {shape[0]} outputs; 1 or all are possible"
            )
        return cls(shape, _bits(spec, what), groups, geometry)

    @property
    def code_bytes(self) -> int:
        """What the codes of the weight take."""
        count = 1
        for size in self.shape:
            count *= size
        return packed_bytes(count, self.bits[0])

    def fields(self) -> Shapes:
        """The tensors of the packed layer beside its codes."""
        inputs = self.shape[1] * (1 if self.geometry is None else self.geometry.groups)
        return {
            "weight_scale": (self.groups,), "weight_offset": (self.groups,),
            "input_scale": (1,), "input_offset": (1,),
            "bias": (self.shape[0],), "stretch": (inputs,), "shift": (inputs,),
        }  # fmt: skip

    def simulated_fields(self) -> Shapes:
        """The tensors of the simulated layer."""
        own = {name: shape for name, shape in self.fields().items() if "_" not in name}
        grids = {f"weight_quantizer.{part}": (self.groups,) for part in GRID}
        grids |= {f"input_quantizer.{part}": (1,) for part in GRID}
        return {"weight": self.shape, **own, **grids}


@dataclass(frozen=True)
class Product:
    """A product of two activations."""

    bits: tuple[int, int]
    heads: tuple[int, int]
    """Grids of each operand: 0 is one grid as a scalar, n is one for each of n heads."""
    per_length: tuple[bool, bool]
    shortest: tuple[int, int] = (0, 0)
    """The least sum that calibration saw of an operand made of shares of one; 0 for others."""
    per_row: bool = False
    """Whether the left operand is cut relative to the largest of its row."""

    @classmethod
    def of(cls, layer: Any) -> Product:
        """The settings of a packed or simulated product."""
        if isinstance(layer, PackedMatmul):
            sizes = (_heads(layer.a_scale), _heads(layer.b_scale))
            return cls(layer.bits, sizes, layer.per_length, layer.shortest, layer.per_row)
        assert isinstance(layer, QuantMatmul)
        pair = (layer.a_quantizer, layer.b_quantizer)
        bits, heads, lengths = (
            tuple(part(q) for q in pair)
            for part in (_quantizer_bits, _quantizer_groups, _quantizer_length)
        )
        shortest = (pair[0].shortest, pair[1].shortest)
        return cls(cast(Any, bits), cast(Any, heads), cast(Any, lengths), shortest, layer.per_row)

    def to_json(self) -> dict[str, Any]:
        """Their form in the index."""
        spec = {"bits": self.bits, "heads": self.heads, "per_length": self.per_length}
        if any(self.shortest):
            spec["shortest"] = self.shortest
        return {**spec, "per_row": True} if self.per_row else spec

    @classmethod
    def from_json(cls, spec: dict[str, Any], what: str, dimensions: int) -> Product:
        """The settings in an index. Raises: LoadError where they are impossible."""
        heads = checks.integers(
            checks.entry(spec, "heads", what), 2, 0, checks.MAX_SIZE, f"the heads of {what}"
        )
        lengths = checks.items(checks.entry(spec, "per_length", what), what, 2)
        left, right = (checks.boolean(v, f"per_length of {what}") for v in lengths)
        least = checks.integers(
            spec.get("shortest", [0, 0]), 2, 0, checks.MAX_SIZE, f"shortest of {what}"
        )
        per_row = checks.boolean(spec.get("per_row", False), f"per_row of {what}")
        return cls(
            _bits(spec, what), (heads[0], heads[1]), (left, right), (least[0], least[1]), per_row
        )

    @property
    def code_bytes(self) -> int:
        """0: both operands are made at run time."""
        return 0

    def fields(self) -> Shapes:
        """The tensors of the packed product."""
        shapes = [(n, 1, 1) if n else () for n in self.heads]
        return {
            f"{name}_{part}": shape
            for name, shape in zip("ab", shapes, strict=True)
            for part in ("scale", "offset")
        }

    def simulated_fields(self) -> Shapes:
        """The tensors of the simulated product."""
        return {
            f"{name}_quantizer.{part}": (max(n, 1),)
            for name, n in zip("ab", self.heads, strict=True)
            for part in GRID
        }


def _quantizer_bits(quantizer: UniformQuantizer) -> int:
    return quantizer.spec.bits


def _quantizer_groups(quantizer: UniformQuantizer) -> int:
    return quantizer.lower.numel()


def _quantizer_length(quantizer: UniformQuantizer) -> bool:
    return quantizer.per_length


def _heads(scale: Tensor) -> int:
    if scale.dim() == 0:
        return 0
    if scale.dim() == 3 and scale.numel() == scale.shape[0]:
        return int(scale.shape[0])
    raise UsageError(f"a grid of the shape {tuple(scale.shape)} cannot be stored")


def _bits(spec: dict[str, Any], what: str) -> tuple[int, int]:
    bits = checks.entry(spec, "bits", what)
    one, two = checks.integers(bits, 2, MIN_BITS, MAX_BITS, f"the bits of {what}")
    return one, two


def _geometry(value: Any, what: str) -> ConvGeometry:
    parts = checks.items(value, what)
    if len(parts) not in (7, 8):
        raise LoadError(f"{what} has {len(parts)} parts, not 7 or 8")
    stride, padding, dilation, groups, mode, margin, trim = parts[:7]

    def pair(values: Any, low: int, high: int = MAX_STEP) -> tuple[int, int]:
        one, two = checks.integers(values, 2, low, high, what)
        return one, two

    if mode not in MODES or type(mode) is not str:
        raise LoadError(
            f"{what} has the padding mode {checks.shorten(mode)}, which is unknown here"
        )
    left, right, top, bottom = checks.integers(margin, 4, 0, MAX_STEP, what)
    line, up, cut = checks.items(parts[7], what, 3) if len(parts) == 8 else (False, None, [0] * 4)
    begin, end, first, last = checks.integers(cut, 4, 0, MAX_STEP, what)
    return ConvGeometry(
        pair(stride, 1), pair(padding, 0), pair(dilation, 1),
        checks.integer(groups, 1, checks.MAX_SIZE, what), cast(PaddingMode, mode),
        (left, right, top, bottom), pair(trim, 0, 1), checks.boolean(line, what),
        None if up is None else pair(up, 1), (begin, end, first, last),
    )  # fmt: skip
