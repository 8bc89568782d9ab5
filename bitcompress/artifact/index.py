"""The index of model.safetensors: what lies in the vectors, in which order, under which names.

It is JSON, deflated and in base64, one entry of the metadata. Records that are equal stand in it
once (`specs`); names stand in it as a tree of modules whose leaves are numbers of records. The
order of the tree is the order of the data, so no place of a tensor has to be written or believed.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bitcompress.artifact import checks
from bitcompress.artifact.source import Source
from bitcompress.errors import LoadError, UsageError
from bitcompress.graph.intercept import Call
from bitcompress.graph.pointwise import POINTWISE
from bitcompress.graph.scope import KINDS as CALL_KINDS

MAX_INDEX = 1 << 24
"""Bytes of JSON: a hundred thousand layers fit, a deflated bomb does not."""
MAX_DEPTH = 256
MAX_NAMES = 1 << 18
MOST_STEPS = 1 << 20
"""No diffusion process has more timesteps."""

KNOWN_KINDS = frozenset([*CALL_KINDS.values(), *POINTWISE.values()])

Spec = dict[str, Any]


@dataclass(frozen=True)
class Product:
    """A function call (or a part of it) that a layer replaces."""

    call: Call
    part: str
    name: str
    spec: Spec

    @property
    def usual_name(self) -> str:
        """The name of the call as capture gives it."""
        return default_name(self.call, self.part)


@dataclass(frozen=True)
class Time:
    """The clock of a model with time-aware blocks: what sets it, and what it counts."""

    argument: str
    groups: int
    steps: int
    span: tuple[float, float] | None = None
    """Lowest and highest noise level, where it is told one."""

    def to_json(self) -> list[Any]:
        """As lists, numbers and strings."""
        return [self.argument, self.groups, self.steps, *(self.span or ())]

    @classmethod
    def from_json(cls, value: Any) -> Time:
        """The record in an index. Raises: LoadError."""
        parts = checks.items(
            value, "the clock", 5 if isinstance(value, list) and len(value) == 5 else 3
        )
        argument = checks.string(parts[0], "the argument of the clock")
        groups = checks.integer(parts[1], 1, MOST_STEPS, "the time groups")
        steps = checks.integer(parts[2], groups, MOST_STEPS, "the timesteps")
        if len(parts) == 3:
            return cls(argument, groups, steps)
        low, high = (checks.number(part, "a noise level") for part in parts[3:])
        if not 0 < low < high:
            raise LoadError(f"noise levels of {low} to {high} cannot be")
        return cls(argument, groups, steps, (low, high))


@dataclass(frozen=True)
class Index:
    """What a file says of itself; the records are looked at when their data is read."""

    library: str
    """The version that wrote it."""
    recipe: str
    source: Source
    edits: tuple[tuple[str, tuple[str, ...]], ...]
    """What was done to the tree of modules before layers were replaced: (edit, module names)."""
    entries: tuple[tuple[str, Spec], ...]
    """Layers and tensors of the module tree by name, in the order of their data."""
    products: tuple[Product, ...]
    """After the entries, likewise."""
    same: Mapping[str, str]
    """Further names of shared layers and tied tensors, and the name that they are stored under."""
    time: Time | None = None
    """The clock, where blocks have time groups."""

    def to_text(self) -> str:
        """Its form in the metadata."""
        numbers: dict[str, int] = {}

        def number(spec: Spec) -> int:
            return numbers.setdefault(json.dumps(spec, separators=(",", ":")), len(numbers))

        tree = _grow([(name, number(spec)) for name, spec in self.entries])
        calls = [
            [*p.call, p.part, number(p.spec), *([] if p.name == p.usual_name else [p.name])]
            for p in self.products
        ]
        parts = {
            "library": self.library,
            "recipe": self.recipe,
            "source": self.source.to_json(),
            "edits": [{"edit": edit, "names": names} for edit, names in self.edits],
            "specs": [json.loads(text) for text in numbers],
            "tree": tree,
            "calls": calls,
            "same": dict(self.same),
        }
        if self.time is not None:
            parts["time"] = self.time.to_json()
        text = json.dumps(parts, separators=(",", ":"), allow_nan=False)
        return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> Index:
        """The index in the metadata of a file. Raises: LoadError where it is damaged."""
        table = checks.table(checks.parse(_inflate(text), "the index"), "the index")

        def part(key: str) -> Any:
            return checks.entry(table, key, "the index")

        specs = [checks.table(s, "a record") for s in checks.items(part("specs"), "the records")]
        entries = tuple((n, _spec(specs, i, n)) for n, i in _leaves(part("tree"), "", 0))
        calls = [_product(call, specs) for call in checks.items(part("calls"), "the calls")]
        if len(entries) + len(calls) > MAX_NAMES:
            raise LoadError(f"the index has {len(entries)} names, more than a model can have")
        if not len(calls) == len({(p.call, p.part) for p in calls}) == len({p.name for p in calls}):
            raise LoadError("the index is damaged: a function call is replaced twice")
        edits = [checks.table(e, "an edit") for e in checks.items(part("edits"), "the edits")]
        return cls(
            library=checks.string(part("library"), "the version of the library"),
            recipe=checks.string(part("recipe"), "the recipe's name"),
            source=Source.from_json(part("source")),
            edits=tuple(_edit(edit) for edit in edits),
            entries=entries,
            products=tuple(calls),
            same=_same(part("same"), {name for name, _ in entries}),
            time=Time.from_json(table["time"]) if "time" in table else None,
        )


def default_name(call: Call, part: str) -> str:
    """The name of a replaced call, as capture gives it."""
    return f"{call.owner}@{call.kind}.{call.ordinal}" + (f".{part}" if part else "")


def _grow(leaves: list[tuple[str, int]]) -> Any:
    """Dotted names as a tree of dicts."""
    root: dict[str, Any] = {}
    for name, number in leaves:
        if not name:
            return number
        *path, leaf = name.split(".")
        if len(path) >= MAX_DEPTH:
            raise UsageError(
                f"{checks.shorten(name)} lies {len(path)} modules deep; {MAX_DEPTH} can be stored"
            )
        place = root
        for step in path:
            place = place.setdefault(step, {})
        place[leaf] = number
    return root


def _leaves(tree: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    """The names and numbers of a tree."""
    if type(tree) is not dict:
        yield name, tree
        return
    if depth > MAX_DEPTH:
        raise LoadError("the index is damaged: it is nested too deeply")
    for step, child in tree.items():
        if not step or "." in step:
            raise LoadError(f"the index is damaged: {checks.shorten(step)} is no name of a module")
        yield from _leaves(child, f"{name}.{step}" if depth else step, depth + 1)


def _inflate(text: str) -> bytes:
    try:
        packed = base64.b64decode(text, validate=True)
        inflater = zlib.decompressobj()
        data = inflater.decompress(packed, MAX_INDEX)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise LoadError(f"the index is damaged ({error}): get the file again") from error
    if inflater.unconsumed_tail or not inflater.eof or inflater.unused_data:
        raise LoadError("the index is damaged: it does not end where it should")
    return data


def _spec(specs: list[Spec], number: Any, what: str) -> Spec:
    return specs[checks.integer(number, 0, len(specs) - 1, f"the record of {checks.shorten(what)}")]


def _product(value: Any, specs: list[Spec]) -> Product:
    parts = checks.items(value, "a call")
    if len(parts) not in (5, 6):
        raise LoadError(f"the index is damaged: a call has {len(parts)} parts, not 5 or 6")
    owner, kind, part = (checks.string(parts[i], "a call") for i in (0, 1, 3))
    ordinal = checks.integer(parts[2], 0, checks.MAX_SIZE, "the number of a call")
    if kind not in KNOWN_KINDS or part not in ("", "qk", "av"):
        raise LoadError(f"the index replaces {kind!r} {part!r}, which is unknown here")
    call = Call(owner, kind, ordinal)
    name = checks.string(parts[5], "a call") if len(parts) == 6 else default_name(call, part)
    return Product(call, part, name, _spec(specs, parts[4], name))


def _edit(value: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    names = checks.items(checks.entry(value, "names", "an edit"), "the names of an edit")
    edit = checks.string(checks.entry(value, "edit", "an edit"), "an edit")
    return edit, tuple(checks.string(name, "a name of an edit") for name in names)


def _same(value: Any, names: set[str]) -> dict[str, str]:
    same = checks.table(value, "the shared names")
    for other, name in same.items():
        if type(name) is not str or name not in names or other in names:
            raise LoadError(f"the index is damaged: {checks.shorten(other)} shares with nothing")
    return same
