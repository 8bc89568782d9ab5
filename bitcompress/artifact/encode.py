"""A packed model becomes bytes, and is brought to what those bytes hold before it is measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from bitcompress.artifact import binary, container, kinds
from bitcompress.artifact.blobs import NAMES, Writer, rounded
from bitcompress.artifact.index import Index, Product, Spec, Time
from bitcompress.artifact.source import Source
from bitcompress.errors import UsageError
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.timed import clock_of
from bitcompress.layers.binary import BinaryBlock, Clock
from bitcompress.quant.uniform import UniformQuantizer

FORMAT = "bitcompress"
FORMAT_VERSION = 2
"""Raised when a file of before can no longer be read as it was meant."""
READABLE = (1, 2)
"""Format 1 knows no products that are cut by row."""


def library_version() -> str:
    """The version of the installed bitcompress; "0" where it runs from a bare checkout."""
    try:
        return version("bitcompress")
    except PackageNotFoundError:
        return "0"


@dataclass(frozen=True)
class Slot:
    """A tensor of the float remainder and the place where it stands."""

    owner: nn.Module
    leaf: str
    tensor: Tensor
    buffer: bool

    @property
    def exact(self) -> bool:
        """Whether it is stored as it is: bounds of grids, buffers but the statistics of norms."""
        if isinstance(self.owner, UniformQuantizer):
            return True
        return self.buffer and not isinstance(self.owner, _NormBase)


@dataclass
class Walk:
    """What of a module tree is stored, in order of the tree; shared things once."""

    found: dict[str, nn.Module | Slot] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    _seen: dict[int, str] = field(default_factory=dict)

    def visit(self, module: nn.Module, name: str = "") -> Walk:
        """Add what a module and its children hold."""
        if isinstance(module, BinaryBlock):
            raise UsageError(f"{name} is still trained: pack the student (pack_blocks) first")
        if kinds.is_layer(module):
            self._add(module, name, module)
            return self
        start = f"{name}." if name else ""
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                self._add(parameter, start + leaf, Slot(module, leaf, parameter, False))
        for leaf, buffer in module._buffers.items():
            if buffer is not None and leaf not in module._non_persistent_buffers_set:
                self._add(buffer, start + leaf, Slot(module, leaf, buffer, True))
        for leaf, child in module._modules.items():
            if child is not None:
                self.visit(child, start + leaf)
        return self

    def _add(self, thing: object, name: str, item: nn.Module | Slot) -> None:
        if id(thing) in self._seen:
            self.same[name] = self._seen[id(thing)]
            return
        self._seen[id(thing)] = name
        self.found[name] = item


def round_to_stored(model: Rewritten) -> None:
    """Give a packed model, in place, the numbers that its file will hold.

    After this the model in memory and the one that `load` makes compute the same to the bit. What
    half precision changes: float parameters, statistics of norms, weight scales, biases. What the
    file holds exactly is left alone: everything in a model of binary blocks.
    """
    if binary.is_binary(model):
        return
    for item in Walk().visit(model.net).found.values():
        if isinstance(item, nn.Module):
            kinds.round_in_place(item)
        elif item.tensor.dtype == torch.float32 and not item.exact and not item.tensor.is_meta:
            with torch.no_grad():
                item.tensor.copy_(rounded(item.tensor.detach().cpu(), exact=False))
    for product in model.products.values():
        kinds.round_in_place(product)


def encode(
    model: Rewritten,
    source: Source,
    edits: Iterable[Mapping[str, Any]] = (),
    recipe: str = "",
) -> bytes:
    """The bytes of model.safetensors; the same for the same model.

    Raises: UsageError where the model holds what a file cannot.
    """
    writer, exact = Writer(), binary.is_binary(model)
    walk = Walk().visit(model.net)
    entries = [(name, _put(writer, item, name, exact)) for name, item in walk.found.items()]
    products = []
    for call, parts in model.calls.items():
        for part, key in parts.items():
            layer, name = model.products[key], key.replace("/", ".")
            if not kinds.is_layer(layer):
                raise UsageError(
                    f"{name} is replaced by a {type(layer).__name__}: it cannot be stored"
                )
            products.append(Product(call, part, name, kinds.put(writer, layer, name)))
    index = Index(
        library_version(), recipe, _json_able(source),
        tuple((str(edit["edit"]), tuple(edit["names"])) for edit in edits),
        tuple(entries), tuple(products), walk.same, _time(model),
    )  # fmt: skip
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "index": index.to_text(),
    }
    return container.write(writer.blobs(), metadata)


def _time(model: Rewritten) -> Time | None:
    """Which argument sets the clock of a model; None where it has none."""
    found = clock_of(model)
    if found is None:
        return None
    clock, source = found
    assert isinstance(clock, Clock)
    return Time(source.name, clock.groups, clock.steps, clock.span)


def _put(writer: Writer, item: nn.Module | Slot, name: str, exact: bool) -> Spec:
    if isinstance(item, nn.Module):
        return kinds.put(writer, item, name)
    tensor = item.tensor.detach()
    if tensor.dtype not in NAMES:
        raise UsageError(f"{name} is {tensor.dtype}, which cannot be stored: convert it to float32")
    spec: Spec = {"is": "buffer" if item.buffer else "parameter", "shape": list(tensor.shape)}
    if tensor.is_meta:
        return {**spec, "is": f"absent {spec['is']}"}
    floats = tensor.is_floating_point() or tensor.is_complex()
    if floats and not item.buffer and not bool(torch.isfinite(tensor).all()):
        raise UsageError(f"{name} holds NaN or infinite numbers: the model is broken, not saved")
    return {
        **spec,
        "dtype": NAMES[tensor.dtype],
        "as": writer.put(tensor, exact=exact or item.exact).to_json(),
    }


def _json_able(source: Source) -> Source:
    try:
        json.dumps(source.to_json(), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the configuration of the model cannot be stored ({error}): it must be numbers, "
            "texts, lists and dicts"
        ) from error
    return source
