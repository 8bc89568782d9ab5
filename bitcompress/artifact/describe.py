"""What is in the folder of a packed model, told without building the model."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from torch import nn

from bitcompress.artifact import binary, folder, kinds
from bitcompress.artifact.encode import FORMAT_VERSION
from bitcompress.artifact.store import opened
from bitcompress.artifact.structure import Content
from bitcompress.blocks.parts import Parts
from bitcompress.layers import SplitLinear
from bitcompress.layers.binary import PackedBlock

CATEGORIES = {
    "weight": "codes",
    "weight_scale": "weight_grids",
    "weight_offset": "weight_grids",
    "weight_middle": "weight_grids",
    "bias": "biases",
    "stretch": "input_channels",
    "shift": "input_channels",
    "scale": "weight_grids",
    "theta": "input_channels",
}
"""What the bytes of a packed layer's field count as; all other fields are grids of activations."""


def describe(path: str | Path) -> dict[str, Any]:
    """What is in the folder of a packed model, without building the model.

    Returns: format_version, library, recipe, source, edits, files (with their state), layers (name,
    op, state, shape, weight_bits, act_bits, codes, bytes), tensors (the float remainder), shared
    names, and bytes by category.
    Raises: LoadError where the folder is unfinished or damaged.
    """
    content, rows, place = opened(path)
    index = content.index
    owned = _by_owner(content)
    layers = [
        _row(name, layer, owned[name])
        for name, layer in {**content.layers, **content.products}.items()
        if not isinstance(layer, binary.BEHIND)
    ]
    tensors = [
        {
            "name": name,
            "shape": list(stored.shape),
            "type": "absent" if stored.tensor is None else str(stored.tensor.dtype)[6:],
            "bytes": owned[name],
        }
        for name, stored in content.tensors.items()
    ]
    model, manifest = rows[folder.MODEL]["bytes"], (place / folder.MANIFEST).stat().st_size
    sizes = _by_category(content)
    sizes["header"] = model - sum(sizes.values())
    sizes["manifest"] = manifest
    return {
        "format_version": FORMAT_VERSION,
        "library": index.library,
        "recipe": index.recipe,
        "source": index.source.to_json(),
        "edits": [{"edit": edit, "names": list(names)} for edit, names in index.edits],
        "files": {name: _state(place / name, row["bytes"]) for name, row in rows.items()},
        "layers": layers,
        "tensors": tensors,
        "shared": dict(index.same),
        "bytes": {**sizes, "total": model + manifest},
    }


def _by_owner(content: Content) -> Counter[str]:
    """Bytes of each layer, product and tensor."""
    names = content.layers.keys() | content.products.keys() | content.tensors.keys()
    totals: Counter[str] = Counter()
    for label, size in content.sizes.items():
        owner = label
        while owner not in names and owner:
            owner = owner.rpartition(".")[0]
        totals[owner] += size
    return totals


def _by_category(content: Content) -> dict[str, int]:
    """Bytes of the data in model.safetensors by what they are."""
    sizes = dict.fromkeys(
        (*dict.fromkeys(CATEGORIES.values()), "activation_grids", "float_remainder"), 0
    )
    for label, size in content.sizes.items():
        field = label.rpartition(".")[2]
        category = CATEGORIES.get(field, "activation_grids")
        sizes["float_remainder" if label in content.tensors else category] += size
    return sizes


def _state(path: Path, size: int) -> dict[str, Any]:
    if not path.is_file():
        return {"bytes": size, "state": "missing"}
    found = path.stat().st_size
    return {"bytes": found, "state": "complete" if found == size else "changed"}


def _binary_row(name: str, layer: nn.Module, size: int) -> dict[str, Any]:
    """One line of a block, of several, or of a call that one took over."""
    blocks = [m for m in layer.modules() if isinstance(m, PackedBlock)]
    shape = list(binary.float_layer(layer)[1]) if blocks else []
    return {
        "name": name,
        "op": binary.KINDS[type(layer)],
        "state": "packed",
        "shape": shape,
        "params": sum(block.weights for block in blocks),
        "weight_bits": 1,
        "act_bits": 1,
        "codes": sum(block.codes.numel() for block in blocks),
        "bytes": size,
        **({"parts": len(blocks), "form": layer.form} if isinstance(layer, Parts) else {}),
        **({"method": blocks[0].method} if blocks else {}),
    }


def _row(name: str, layer: nn.Module, size: int) -> dict[str, Any]:
    """One line of the table of layers."""
    if isinstance(layer, SplitLinear):
        rows = [_row(name, part, 0) for part in layer.parts]
        shape = [sum(row["shape"][0] for row in rows), rows[0]["shape"][1]]
        sums = {key: sum(row[key] for row in rows) for key in ("codes", "params")}
        return {**rows[0], "shape": shape, **sums, "parts": len(rows), "bytes": size}
    if type(layer) in binary.KINDS:
        return _binary_row(name, layer, size)
    op = kinds.NAMES[type(layer)]
    kind = kinds.KINDS[op]
    settings = kind.settings.of(layer)
    shape = list(getattr(settings, "shape", ()))
    return {
        "name": name,
        "op": op.removeprefix("simulated-"),
        "state": "packed" if kind.packed else "simulated",
        "shape": shape,
        "params": math.prod(shape) if shape else 0,
        "weight_bits": settings.bits[0],
        "act_bits": settings.bits[1],
        "codes": kind.code_bytes(settings),
        "bytes": size,
    }
