"""What a packed block is beside its tensors: plain numbers, and which tensors they call for.

An artifact stores `to_json` and the tensors of `fields`; what comes back is checked before anything
is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bitcompress.errors import LoadError
from bitcompress.layers.binary.shortcuts import ORDERS, Bridge
from bitcompress.layers.geometry import ConvGeometry
from bitcompress.packed.dab import WORD
from bitcompress.packed.stored import packed_bytes

MODES = ("static", "none", "tensor", "group", "channel")
"""How a threshold is stored: a table, or DAB's tables with the scale that they share."""
SCALINGS = ("none", "sample", "word")
KINDS = ("add", "mul", "leaky", "norm", "shortcut")
BORDERS = ("zeros", "reflect", "replicate", "circular")
LARGEST = 1 << 20
Field = tuple[tuple[int, ...], torch.dtype]


@dataclass(frozen=True)
class TailForm:
    """One step of the tail: its kind, the rows of its table (0: none), eps, whether it shifts."""

    kind: str
    rows: int = 0
    eps: float = 0.0
    shift: bool = False


@dataclass(frozen=True)
class PackedForm:
    """Everything about a packed block that is no tensor.

    mode, groups: how its threshold is stored, in how many rows. shortcut: what it spans, and
    whether it has a gain.
    """

    method: str
    axis: int
    weight_shape: tuple[int, ...]
    geometry: ConvGeometry
    pad_value: int
    scaling: str
    mode: str
    groups: int
    tail: tuple[TailForm, ...]
    shortcut: Bridge | None = None
    shortcut_gain: bool = False

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels."""
        up = self.geometry.up or (1, 1)
        return self.weight_shape[1] * self.geometry.groups, self.weight_shape[0] // math.prod(up)

    def fields(self) -> dict[str, Field]:
        """The tensors of a block of this form, by name, with shape and type."""
        cin, cout = self.channels
        bits = (packed_bytes(math.prod(self.weight_shape), 1),)
        found: dict[str, Field] = {
            "weight": (bits, torch.uint8), "scale": ((self.weight_shape[0],), torch.float32)
        }  # fmt: skip
        words = {"tensor": 1, "group": -(-cin // WORD), "channel": cin}.get(self.mode, 0)
        tables = {"theta": cin} if self.mode == "static" else {"slope": cin, "bias": cin}
        tables |= {"exponent": words} if words else {}
        for name, columns in tables.items():
            found[f"threshold.{name}"] = ((self.groups, columns), torch.float32)
        if self.mode != "static":
            found["threshold.gain"] = ((cin,), torch.float32)
        for number, step in enumerate(self.tail):
            if step.rows:
                found[f"tail{number}"] = ((step.rows, cout), torch.float32)
            if step.shift:
                found[f"tail{number}_shift"] = ((cout,), torch.float32)
        if self.shortcut_gain:
            found["shortcut.gain"] = ((cout,), torch.float32)
        return found

    def to_json(self) -> dict[str, Any]:
        """As lists, numbers and strings."""
        g, b = self.geometry, self.shortcut
        bridge = None if b is None else [b.cin, b.cout, b.axis, b.stride, b.up, b.order]
        return {
            "method": self.method, "axis": self.axis, "weight_shape": list(self.weight_shape),
            "geometry": [
                g.stride, g.padding, g.dilation, g.groups, g.mode, g.margin, g.trim, g.line, g.up,
                g.cut,
            ],
            "pad_value": self.pad_value, "scaling": self.scaling, "mode": self.mode,
            "groups": self.groups, "shortcut": bridge, "shortcut_gain": self.shortcut_gain,
            "tail": [[s.kind, s.rows, s.eps, s.shift] for s in self.tail],
        }  # fmt: skip

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> PackedForm:
        """What `to_json` wrote. Raises: LoadError where it cannot be that."""
        try:
            form = cls(
                str(given["method"]), int(given["axis"]), _numbers(given["weight_shape"], 4),
                _geometry(given["geometry"]), int(given["pad_value"]), str(given["scaling"]),
                str(given["mode"]), int(given["groups"]),
                tuple(TailForm(str(k), int(r), float(e), bool(s)) for k, r, e, s in given["tail"]),
                None if given["shortcut"] is None else _bridge(given["shortcut"]),
                bool(given["shortcut_gain"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise LoadError(f"a binary block has settings that cannot be read: {error}") from error
        reason = form.objection()
        if reason:
            raise LoadError(f"a binary block has impossible settings: {reason}")
        return form

    def objection(self) -> str:
        """What cannot be so; empty where all fits."""
        g, up = self.geometry, self.geometry.up or (1, 1)
        (cin, cout), b = self.channels, self.shortcut
        kinds = [step.kind for step in self.tail]
        bad = {
            "axis": self.axis not in (1, -1),
            "mode": self.mode not in MODES,
            "scaling": self.scaling not in SCALINGS,
            "pad_value": self.pad_value not in (-1, 0, 1),
            "groups": not 1 <= self.groups <= LARGEST
            or self.groups not in (1, self.rows_of_tables()),
            "weight_shape": min(self.weight_shape) < 1
            or self.weight_shape[0] % (math.prod(up) * g.groups) != 0,
            "tail": any(kind not in KINDS for kind in kinds)
            or any(step.rows not in (0, 1, self.rows_of_tables()) for step in self.tail),
            "shortcut": kinds.count("shortcut") != (self.shortcut is not None)
            or (b is not None and (b.cin, b.cout, b.axis) != (cin, cout, self.axis)),
        }  # fmt: skip
        return ", ".join(name for name, wrong in bad.items() if wrong)

    def rows_of_tables(self) -> int:
        """How many time groups the tables have."""
        return max([self.groups, *(step.rows for step in self.tail)])


def _numbers(given: Any, count: int, least: int = 0) -> tuple[int, ...]:
    found = tuple(int(part) for part in given)
    if len(found) != count or any(not least <= part <= LARGEST for part in found):
        raise ValueError(f"{given} are not {count} sizes")
    return found


def _pair(given: Any, least: int = 0) -> tuple[int, int]:
    rows, columns = _numbers(given, 2, least)
    return rows, columns


def _geometry(given: Any) -> ConvGeometry:
    stride, padding, dilation, groups, mode, margin, trim, line, up, cut = given
    if mode not in BORDERS:
        raise ValueError(f"{mode!r} is no border")
    left, right, top, bottom = _numbers(margin, 4)
    return ConvGeometry(
        _pair(stride, 1), _pair(padding), _pair(dilation, 1), _numbers([groups], 1, 1)[0], mode,
        (left, right, top, bottom), _pair(trim), bool(line), None if up is None else _pair(up, 1),
        _four(cut),
    )  # fmt: skip


def _four(given: Any) -> tuple[int, int, int, int]:
    a, b, c, d = _numbers(given, 4)
    return a, b, c, d


def _bridge(given: Any) -> Bridge:
    cin, cout, axis, stride, up, order = given
    if order not in ORDERS:
        raise ValueError(f"{order!r} is no order of a CFB")
    inputs, outputs = _numbers([cin, cout], 2, 1)
    enlarged = None if up is None else _pair(up, 1)
    return Bridge(inputs, outputs, int(axis), _pair(stride, 1), enlarged, order)
