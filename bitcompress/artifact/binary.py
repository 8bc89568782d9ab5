"""Packed binary blocks as records: one bit a weight, and every other number exactly as it is.

A block's numbers decide bits (thresholds) and are multiplied with sums in float32, and what is
measured is what is stored: nothing of a binary model is rounded on its way into a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.artifact import checks
from bitcompress.artifact.blobs import Coding, Reader, Writer
from bitcompress.blocks.parts import WIRINGS, Parts
from bitcompress.errors import LoadError, UsageError
from bitcompress.graph.pointwise import Absorbed
from bitcompress.layers.binary import ENDS, BinaryBlock, Clock, EndActivation, PackedBlock
from bitcompress.layers.binary.axes import PICTURES, TOKENS
from bitcompress.layers.binary.form import PackedForm

BLOCK, PARTS, ABSORBED, END = "block", "parts", "absorbed", "end"
KINDS: dict[type[nn.Module], str] = {
    PackedBlock: BLOCK, Parts: PARTS, Absorbed: ABSORBED, EndActivation: END,
}  # fmt: skip
BEHIND = (Absorbed, EndActivation)
"""What answers a call that multiplies no matrices: it took over no weight."""
MOST_PARTS = 64
LAYERS = ("Linear", "Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d")
FIELDS = ("is", "fields")
"""What a record holds beside the settings of a block."""


def is_binary(model: nn.Module) -> bool:
    """Whether a model holds packed blocks: then its floats are stored exactly."""
    return any(isinstance(module, PackedBlock) for module in model.modules())


def put(writer: Writer, layer: nn.Module, name: str) -> dict[str, Any]:
    """Store a block, several of them, or an absorbed call; gives the record.

    Raises: UsageError if the layer holds what a record cannot.
    """
    if isinstance(layer, Absorbed):
        return {"is": ABSORBED}
    if isinstance(layer, EndActivation):
        tables = {key: _finite(value, f"{name}.{key}") for key, value in layer.state_dict().items()}
        kept = {key: writer.put(value, exact=True).to_json() for key, value in tables.items()}
        return {"is": END, **layer.settings(), "fields": kept}
    if isinstance(layer, Parts):
        parts = [put(writer, part, f"{name}.parts.{i}") for i, part in enumerate(layer.parts)]
        return {
            "is": PARTS, "form": layer.form, "layer": layer.layer,
            "shape": list(layer.stands_for), "parts": parts,
        }  # fmt: skip
    if not isinstance(layer, PackedBlock):
        raise UsageError(
            f"{name} is a {type(layer).__name__}: pack the student (pack_blocks) first"
        )
    state = dict(layer.state_dict())
    fields = layer.form.fields()
    if state.keys() != fields.keys():
        odd = min(state.keys() ^ fields.keys())
        raise UsageError(f"{name}.{odd} cannot be stored: a block of its form has no such tensor")
    writer.put_codes(state.pop("weight"))
    codings = {}
    for field, value in state.items():
        codings[field] = writer.put(_finite(value, f"{name}.{field}"), exact=True).to_json()
    return {"is": BLOCK, **layer.settings(), "fields": codings}


def take(reader: Reader, spec: Mapping[str, Any], what: str, clock: Clock | None) -> nn.Module:
    """The next block of a file, from its record. Raises: LoadError."""
    kind = spec["is"]
    if kind == ABSORBED:
        return Absorbed()
    if kind == END:
        return _end(reader, spec, what)
    return _parts(reader, spec, what, clock) if kind == PARTS else _block(reader, spec, what, clock)


def _finite(value: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(value).all()):
        raise UsageError(f"{name} holds NaN or infinite numbers: it is not saved")
    return value


def _end(reader: Reader, spec: Mapping[str, Any], what: str) -> EndActivation:
    act = checks.string(checks.entry(spec, "act", what), f"the activation of {what}")
    (channels,) = checks.shape([checks.entry(spec, "channels", what)], f"the channels of {what}")
    axis = checks.integer(checks.entry(spec, "axis", what), TOKENS, PICTURES, f"the axis of {what}")
    if act not in ENDS or axis not in (PICTURES, TOKENS):
        raise LoadError(f"{what} is damaged: no {checks.shorten(act)} on axis {axis} can be")
    with torch.device("meta"):  # what a damaged file names may not fit into memory
        made = EndActivation.build({"act": act, "channels": channels, "axis": axis})
    codings = checks.table(checks.entry(spec, "fields", what), f"the tensors of {what}")
    own = made.state_dict()
    if codings.keys() != own.keys():
        odd = min(codings.keys() ^ own.keys())
        raise LoadError(f"{what}.{checks.shorten(odd)} is missing or too much")
    made.load_state_dict(
        {
            key: _taken(reader, tuple(own[key].shape), own[key].dtype, value, f"{what}.{key}")
            for key, value in codings.items()
        },
        assign=True,
    )
    return made.eval().requires_grad_(False)


def _taken(
    reader: Reader, shape: tuple[int, ...], dtype: torch.dtype, coding: Any, label: str
) -> Tensor:
    tensor = reader.take(shape, dtype, Coding.from_json(coding, label), label)
    if not bool(torch.isfinite(tensor).all()):
        raise LoadError(f"{label} holds NaN or infinite numbers: the file is damaged")
    return tensor


def _parts(reader: Reader, spec: Mapping[str, Any], what: str, clock: Clock | None) -> Parts:
    form = checks.string(checks.entry(spec, "form", what), f"the form of {what}")
    layer = checks.string(checks.entry(spec, "layer", what), f"the layer of {what}")
    shape = checks.shape(checks.entry(spec, "shape", what), f"the weight of {what}")
    records = checks.items(checks.entry(spec, "parts", what), f"the parts of {what}")
    if form not in WIRINGS or layer not in LAYERS or not 1 <= len(records) <= MOST_PARTS:
        raise LoadError(f"{what} is damaged: {len(records)} blocks cannot be a {form!r} {layer!r}")
    if form == "fusion" and len(records) != 2:
        raise LoadError(f"{what} is damaged: a fusion is made of 2 blocks, not {len(records)}")
    parts: list[PackedBlock] = []
    for number, record in enumerate(records):
        table = checks.table(record, f"a part of {what}")
        if table.get("is") != BLOCK:
            raise LoadError(f"{what} is damaged: its parts are not blocks")
        parts.append(_block(reader, table, f"{what}.parts.{number}", clock))
    one = parts[0]
    alike = (one.axis, one.geometry, one.weight.shape)
    if any((part.axis, part.geometry, part.weight.shape) != alike for part in parts):
        raise LoadError(f"{what} is damaged: its parts are not of one shape")
    return Parts(form, parts, layer, shape)


def _block(reader: Reader, spec: Mapping[str, Any], what: str, clock: Clock | None) -> PackedBlock:
    settings = {key: value for key, value in spec.items() if key not in FIELDS}
    try:
        form = PackedForm.from_json(settings)
        fields = form.fields()
    except OverflowError as error:
        raise LoadError(f"{what} is damaged: {error}") from error
    objection = _objection(form, clock)
    if objection:
        raise LoadError(f"{what} is damaged: {objection}")
    codings = checks.table(checks.entry(spec, "fields", what), f"the tensors of {what}")
    if codings.keys() != fields.keys() - {"weight"}:
        odd = min(codings.keys() ^ (fields.keys() - {"weight"}))
        raise LoadError(f"{what} is damaged: {checks.shorten(odd)} is missing or too much")
    tensors = {"weight": reader.take_codes(fields["weight"][0][0], f"{what}.weight")}
    # In the order of the record, which is that of the data.
    for field, value in codings.items():
        shape, dtype = fields[field]
        label = f"{what}.{field}"
        tensors[field] = _taken(reader, shape, dtype, value, label)
    return PackedBlock.build(settings, tensors, clock)


def _objection(form: PackedForm, clock: Clock | None) -> str:
    """Why a form that can be read cannot run; empty where it can."""
    g, bridge = form.geometry, form.shortcut
    scaled = form.mode in ("tensor", "group", "channel")
    if scaled != (form.scaling != "none") or (form.scaling == "word" and form.mode != "group"):
        return f"a scale by {form.mode} cannot be used by {form.scaling}"
    if form.scaling == "sample" and form.mode == "group" and form.channels[0] > 32:
        return "scales of words cannot be used by sample"
    if form.mode == "channel" and form.weight_shape[1] != 1:
        return "a scale for each input channel needs a depthwise layer"
    if any((step.rows == 0) != (step.kind == "shortcut") for step in form.tail):
        return "a step has a table where it takes none, or none where it takes one"
    if any(step.shift and step.kind != "norm" for step in form.tail):
        return "a step that is no norm has a shift"
    if any(step.kind == "norm" and not (step.shift and step.eps > 0) for step in form.tail):
        return "a norm without shift or eps"
    if bridge is not None and (bridge.stride, bridge.up) != (g.stride, g.up):
        return "its shortcut spans another size than its layer"
    groups = form.rows_of_tables()
    if groups > 1 and (clock is None or clock.groups != groups):
        return f"it has {groups} time groups, its model has {clock.groups if clock else 'no clock'}"
    plain = form.axis == 1 or (
        form.weight_shape[2:] == (1, 1) and g.groups == 1 and g.stride == (1, 1)
        and g.padding == (0, 0) and g.up is None and not g.line and g.mode == "zeros"
    )  # fmt: skip
    return "" if plain else "a linear with the geometry of a convolution"


def float_layer(layer: nn.Module) -> tuple[str, tuple[int, ...]]:
    """The class and the weight shape of the float layer that a block stands for."""
    if isinstance(layer, Parts):
        return layer.layer, layer.stands_for
    assert isinstance(layer, PackedBlock | BinaryBlock)
    shape = tuple(layer.weight.shape) if isinstance(layer, PackedBlock) else ()
    if isinstance(layer, PackedBlock) and layer.axis == -1:
        return "Linear", shape
    g = layer.geometry if isinstance(layer, PackedBlock) else layer.core.geometry
    name = "Conv" if g.up is None else "ConvTranspose"
    return f"{name}{1 if g.line else 2}d", shape
