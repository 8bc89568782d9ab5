"""Layers as records: each kind of replaced layer, which tensors it has, and how it is made again.

`KINDS` is the table. A layer with a tensor that the table does not know is refused when it is
stored: a file must never hold less than the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.artifact import binary, checks, grids
from bitcompress.artifact.blobs import Coding, Reader, Writer, rounded
from bitcompress.artifact.settings import Product, Shapes, Weighted
from bitcompress.errors import LoadError, UsageError
from bitcompress.layers import (
    PackedConv2d,
    PackedLinear,
    PackedMatmul,
    QuantConv2d,
    QuantLinear,
    QuantMatmul,
    SplitLinear,
    Widths,
)
from bitcompress.layers.binary import Clock
from bitcompress.packed import PackedTensor

Settings = Weighted | Product
HALF = frozenset(["weight_scale", "weight_middle", "bias", "stretch", "shift", "weight"])
"""Fields in half precision; the others, the grids of activations, are exact."""
OPTIONAL = frozenset(["bias", "stretch", "shift"])
GRID = ("weight_scale", "weight_offset")


@dataclass(frozen=True)
class Kind:
    """One kind of layer."""

    module: type[nn.Module]
    packed: bool
    settings: type[Weighted] | type[Product]
    dimensions: int
    """Of the weight; 0 where there is none."""
    build: Callable[[Any, dict[str, Tensor]], nn.Module]

    def fields(self, settings: Settings) -> Shapes:
        """The shapes of the tensors."""
        return settings.fields() if self.packed else settings.simulated_fields()

    def code_bytes(self, settings: Settings) -> int:
        """What the codes of the weight take."""
        return settings.code_bytes if self.packed else 0


def _packed_linear(s: Weighted, t: dict[str, Tensor]) -> nn.Module:
    return PackedLinear(
        _codes(s, t), t.get("bias"), t["input_scale"], t["input_offset"], s.bits[1],
        t.get("stretch"), t.get("shift"),
    )  # fmt: skip


def _packed_conv2d(s: Weighted, t: dict[str, Tensor]) -> nn.Module:
    assert s.geometry is not None
    layer = PackedConv2d(
        _codes(s, t), t.get("bias"), t["input_scale"], t["input_offset"], s.bits[1], s.geometry,
        t.get("stretch"),
    )  # fmt: skip
    layer.shift = t.get("shift")
    return layer


def _codes(s: Weighted, t: dict[str, Tensor]) -> PackedTensor:
    return PackedTensor(t["weight"], s.shape, s.bits[0], t["weight_scale"], t["weight_offset"])


def _packed_matmul(s: Product, t: dict[str, Tensor]) -> nn.Module:
    left, right = ((t[f"{name}_scale"], t[f"{name}_offset"]) for name in "ab")
    return PackedMatmul(left, right, s.bits, s.per_length, s.shortest, s.per_row)


def _simulated_linear(s: Weighted, t: dict[str, Tensor]) -> nn.Module:
    return _with_state(QuantLinear(*_parameters(t), _widths(s)), t)


def _simulated_conv2d(s: Weighted, t: dict[str, Tensor]) -> nn.Module:
    assert s.geometry is not None
    return _with_state(QuantConv2d(*_parameters(t), s.geometry, _widths(s)), t)


def _simulated_matmul(s: Product, t: dict[str, Tensor]) -> nn.Module:
    heads = (max(s.heads[0], 1), max(s.heads[1], 1))
    layer = QuantMatmul(*s.bits, heads, s.per_length, shortest=s.shortest, per_row=s.per_row)
    return _with_state(layer, t)


def _parameters(t: dict[str, Tensor]) -> tuple[nn.Parameter, nn.Parameter | None]:
    bias = nn.Parameter(t["bias"], requires_grad=False) if "bias" in t else None
    return nn.Parameter(t["weight"], requires_grad=False), bias


def _widths(s: Weighted) -> Widths:
    return Widths(*s.bits, 0 if s.groups > 1 else None)


def _with_state(layer: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    for name in ("stretch", "shift"):
        if name in tensors:
            setattr(layer, name, tensors[name])
    for name, value in tensors.items():
        owner, dot, leaf = name.rpartition(".")
        if dot:
            getattr(layer.get_submodule(owner), leaf).data.copy_(value)
    return layer.requires_grad_(False)


KINDS: dict[str, Kind] = {
    "linear": Kind(PackedLinear, True, Weighted, 2, _packed_linear),
    "conv2d": Kind(PackedConv2d, True, Weighted, 4, _packed_conv2d),
    "matmul": Kind(PackedMatmul, True, Product, 0, _packed_matmul),
    "simulated-linear": Kind(QuantLinear, False, Weighted, 2, _simulated_linear),
    "simulated-conv2d": Kind(QuantConv2d, False, Weighted, 4, _simulated_conv2d),
    "simulated-matmul": Kind(QuantMatmul, False, Product, 0, _simulated_matmul),
}
NAMES = {kind.module: name for name, kind in KINDS.items()}
SPLIT = "split"


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a replaced layer, stored as a record."""
    return type(module) in (*NAMES, *binary.KINDS, SplitLinear)


def put(writer: Writer, layer: nn.Module, name: str) -> dict[str, Any]:
    """Store a layer; gives its record.

    Raises: UsageError if the layer holds what a record cannot.
    """
    if type(layer) in binary.KINDS:
        return binary.put(writer, layer, name)
    if isinstance(layer, SplitLinear):
        parts = [put(writer, part, f"{name}.parts.{i}") for i, part in enumerate(layer.parts)]
        return {"is": SPLIT, "parts": parts}
    kind, settings, tensors = _described(layer, name)
    if kind.packed and "weight" in tensors:
        writer.put_codes(tensors.pop("weight"))
        tensors = _with_middle(tensors, settings.bits[0])
    codings = {
        field: writer.put(_finite(value, f"{name}.{field}"), exact=field not in HALF).to_json()
        for field, value in tensors.items()
    }
    return {"is": NAMES[type(layer)], **settings.to_json(), "fields": codings}


def round_in_place(layer: nn.Module) -> None:
    """Give the tensors of a layer the values that they will have once read from a file."""
    if type(layer) in binary.KINDS:
        return
    if isinstance(layer, SplitLinear):
        for part in layer.parts:
            round_in_place(part)
        return
    kind, settings, tensors = _described(layer, type(layer).__name__)
    with torch.no_grad():
        if kind.packed and "weight" in tensors:
            scale, offset = (tensors[n].cpu() for n in GRID)
            grid = grids.rounded_grid(scale, offset, settings.bits[0])
            for name, value in zip(GRID, grid, strict=True):
                tensors[name].copy_(value)
        for field in tensors.keys() & HALF - {*GRID}:
            if not (kind.packed and field == "weight"):
                tensors[field].copy_(rounded(tensors[field].cpu(), exact=False))


def _with_middle(tensors: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """The fields as a file holds them: the middle of each weight grid in place of its offset."""
    scale, offset = (tensors[name].detach().cpu() for name in GRID)
    step, middle = grids.as_stored(scale, offset, bits)
    held = {"weight_scale": step, "weight_offset": offset}
    if middle is not None:
        held = {"weight_scale": step, "weight_middle": middle}
    return held | {name: value for name, value in tensors.items() if name not in GRID}


def _described(layer: nn.Module, name: str) -> tuple[Kind, Settings, dict[str, Tensor]]:
    """What a layer is, its settings, and its tensors, the codes first."""
    kind = KINDS[NAMES[type(layer)]]
    settings = kind.settings.of(layer)
    state = dict(layer.named_parameters()) | dict(layer.named_buffers())
    shapes: Shapes = dict(kind.fields(settings))
    if kind.packed and kind.dimensions:
        shapes = {"weight": (settings.code_bytes,), **shapes}
    for field, value in state.items():
        if field not in shapes or tuple(value.shape) != shapes[field]:
            raise UsageError(
                f"{name}.{field} of shape {tuple(value.shape)} cannot be stored: a "
                f"{type(layer).__name__} of these sizes has {shapes.get(field, 'no such tensor')}"
            )
    missing = shapes.keys() - state.keys() - OPTIONAL
    if missing:
        raise UsageError(f"{name} has no {min(missing)}: the layer is incomplete")
    return kind, settings, {field: state[field] for field in shapes if field in state}


def _finite(x: Tensor, what: str) -> Tensor:
    if x.dtype != torch.float32:
        raise UsageError(f"{what} is {x.dtype}: convert the model to float32 before it is saved")
    if not bool(torch.isfinite(x).all()):
        raise UsageError(f"{what} holds NaN or infinite numbers: the model is broken, not saved")
    return x


def take(reader: Reader, spec: dict[str, Any], what: str, clock: Clock | None = None) -> nn.Module:
    """The next layer of a file, from its record. Raises: LoadError."""
    name = checks.string(checks.entry(spec, "is", what), f"the kind of {what}")
    if name in binary.KINDS.values():
        return binary.take(reader, spec, what, clock)
    if name == SPLIT:
        parts = checks.items(checks.entry(spec, "parts", what), f"the parts of {what}")
        tables = [checks.table(part, f"a part of {what}") for part in parts]
        if not tables or any(t.get("is") not in ("linear", "simulated-linear") for t in tables):
            raise LoadError(f"{what} is damaged: its parts are not linears")
        layers = [take(reader, part, f"{what}.parts.{i}") for i, part in enumerate(tables)]
        if len({Weighted.of(layer).shape[1] for layer in layers}) != 1:
            raise LoadError(f"{what} is damaged: its parts take inputs of different sizes")
        return SplitLinear(layers)  # type: ignore[arg-type]
    if name not in KINDS:
        raise LoadError(f"{what} is a {name!r}, which is unknown here: the file may be newer")
    kind = KINDS[name]
    settings: Settings = kind.settings.from_json(spec, what, kind.dimensions)
    tensors: dict[str, Tensor] = {}
    if kind.code_bytes(settings):
        tensors["weight"] = reader.take_codes(kind.code_bytes(settings), f"{what}.weight")
    tensors |= _take_fields(reader, kind.fields(settings), spec, what)
    return kind.build(settings, _with_offset(tensors, settings.bits[0], what))


def _with_offset(tensors: dict[str, Tensor], bits: int, what: str) -> dict[str, Tensor]:
    """The fields of a layer from those that a file holds."""
    if "weight_middle" in tensors:
        middle = tensors.pop("weight_middle")
        offset = grids.first_level(tensors["weight_scale"], middle, bits)
        if not bool(torch.isfinite(offset).all()):
            raise LoadError(f"{what}.weight_offset is infinite: the file is damaged")
        tensors["weight_offset"] = offset
    return tensors


def _take_fields(
    reader: Reader, shapes: Shapes, spec: dict[str, Any], what: str
) -> dict[str, Tensor]:
    codings = checks.table(checks.entry(spec, "fields", what), f"the tensors of {what}")
    if "weight_middle" in codings and "weight_offset" in shapes:
        names = {"weight_offset": "weight_middle"}
        shapes = {names.get(field, field): shape for field, shape in shapes.items()}
    unknown = codings.keys() - shapes.keys()
    missing = shapes.keys() - codings.keys() - OPTIONAL
    if unknown or missing:
        wrong = f"no {min(missing)}" if missing else f"an unknown {checks.shorten(min(unknown))}"
        raise LoadError(f"{what} has {wrong}: the file is damaged or newer than this bitcompress")
    tensors = {}
    for field, shape in shapes.items():
        if field in codings:
            label = f"{what}.{field}"
            coding = Coding.from_json(codings[field], label)
            tensors[field] = reader.take(shape, torch.float32, coding, label)
            if not bool(torch.isfinite(tensors[field]).all()):
                raise LoadError(f"{label} holds NaN or infinite numbers: the file is damaged")
    return tensors
