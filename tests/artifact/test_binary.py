"""Folders of binary models: what is loaded is what was packed, bit for bit; damage is refused."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitcompress.artifact import (
    Source,
    container,
    describe,
    folder,
    layer_bytes,
    load,
    packed_bytes,
    round_to_stored,
    save_model,
)
from bitcompress.blocks import (
    BlockPolicy,
    insert_blocks,
    pack_blocks,
    prepare_binary,
    settle,
)
from bitcompress.blocks.parts import Parts
from bitcompress.errors import DataError, LoadError, UsageError
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.capture import as_inputs
from bitcompress.graph.intercept import Rewritten
from bitcompress.layers.binary import PackedBlock

from ..makes import PAIRS, made

LIVE = Source("", {}, None, None, 1.0, "", "tests:Make")


def run(model: nn.Module, example: Any) -> list[torch.Tensor]:
    args, kwargs = as_inputs(example)
    with torch.no_grad():
        return tensors_of(model(*args, **kwargs))


def packed(name: str, method: str, **choice: Any) -> tuple[Rewritten, list[dict[str, Any]], Any]:
    model = made(name)
    policy = BlockPolicy(method, min_channels=16, reshape=method == "bidiffsr", **choice)
    plan = prepare_binary(model.net, model.example, policy)
    student = insert_blocks(plan)
    settle(student, [model.example])
    pack_blocks(student)
    return student, list(plan.edits), model


ONE_EACH = {name: method for name, method in PAIRS}


@pytest.mark.parametrize("name, method", ONE_EACH.items())
def test_what_is_loaded_is_what_was_packed(name: str, method: str, tmp_path: Path) -> None:
    student, edits, model = packed(name, method)
    before = run(student, model.example)
    round_to_stored(student)
    assert all(map(torch.equal, run(student, model.example), before))
    size = packed_bytes(student, LIVE, edits)
    save_model(student, LIVE, tmp_path / "out", edits=edits)
    assert sum(p.stat().st_size for p in (tmp_path / "out").iterdir()) == size
    loaded = load(tmp_path / "out", model=model.net).model
    assert all(map(torch.equal, run(loaded, model.example), before))
    kept, again = student.state_dict(), loaded.state_dict()
    assert kept.keys() == again.keys()
    assert all(t.is_meta or torch.equal(t, again[k]) for k, t in kept.items())
    told = describe(tmp_path / "out")
    blocks = [m for m in student.modules() if isinstance(m, PackedBlock)]
    assert sum(row["codes"] for row in told["layers"]) == sum(m.codes.numel() for m in blocks)
    assert sum(row["params"] for row in told["layers"]) == sum(m.weights for m in blocks)
    assert set(layer_bytes(student)) >= {row["name"] for row in told["layers"]}


@pytest.mark.parametrize("aware", ["both", "thresholds", "activations"])
def test_a_clock_is_set_again_after_loading(aware: str, tmp_path: Path) -> None:
    student, edits, model = packed("unet", "bidiffsr", time_groups=5, time_aware=aware)
    for module in student.modules():
        for name, table in module.named_buffers() if isinstance(module, PackedBlock) else ():
            if table.dim() == 2:
                table.add_(torch.randn_like(table))
                threshold = name.startswith("threshold")
                assert len(table) in (1, 5)
                assert len(table) == 1 or aware in (
                    "both",
                    "thresholds" if threshold else "activations",
                )
    save_model(student, LIVE, tmp_path / "out", edits=edits)
    loaded = load(tmp_path / "out", model=model.net).model
    assert torch.equal(run(loaded, model.example)[0], run(student, model.example)[0])
    x, t = model.example["x"], model.example["timestep"]
    assert torch.equal(run(loaded, (x, t.flip(0)))[0], run(student, (x, t.flip(0)))[0])
    with pytest.raises(DataError, match="out of range"):
        loaded(x, t + 100)


def test_one_bit_a_weight_lies_in_the_file() -> None:
    student, _, _ = packed("edsr", "reactnet")
    sizes = layer_bytes(student)
    name, block = next((n, m) for n, m in student.net.named_modules() if isinstance(m, PackedBlock))
    assert block.weights == 32 * 32 * 9
    assert block.weights / 8 <= sizes[name] <= block.weights / 8 + 4 * 32 * 7


def test_a_student_is_not_saved() -> None:
    model = made("edsr")
    student = insert_blocks(prepare_binary(model.net, model.example, BlockPolicy("reactnet")))
    with pytest.raises(UsageError, match="pack the student"):
        packed_bytes(student, LIVE)


# ---- Damage -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored() -> tuple[bytes, nn.Module]:
    """The file of a binary model with time groups, and its float model."""
    from bitcompress.artifact.encode import encode

    student, edits, model = packed("unet", "bidiffsr", time_groups=5)
    return encode(student, LIVE, edits), model.net


Change = Callable[[dict[str, Any], list[dict[str, Any]]], Any]


def _tail(change: Callable[[list[Any]], Any]) -> Change:
    return lambda index, blocks: change(next(b for b in blocks if b["tail"])["tail"][0])


DAMAGE: dict[str, tuple[Change, str]] = {
    "another model's argument": (
        lambda index, blocks: index.update(time=["sigma", 5, 100]), "no argument 'sigma'",
    ),
    "falling noise levels": (
        lambda index, blocks: index.update(time=["timestep", 5, 100, 2.0, 1.0]), "noise levels",
    ),
    "half a range of noise levels": (
        lambda index, blocks: index.update(time=["timestep", 5, 100, 2.0]), "the clock",
    ),
    "no clock": (lambda index, blocks: index.pop("time"), "no clock"),
    "fewer groups": (lambda index, blocks: index.update(time=["timestep", 4, 100]), "time groups"),
    "more groups than steps": (
        lambda index, blocks: index.update(time=["timestep", 5, 4]), "timesteps",
    ),
    "a clock of two parts": (lambda index, blocks: index.update(time=["timestep", 5]), "clock"),
    "no method": (lambda index, blocks: blocks[0].pop("method"), "cannot be read"),
    "huge weight": (
        lambda index, blocks: blocks[0]["weight_shape"].__setitem__(slice(2, 4), [1 << 20] * 2),
        "codes",
    ),
    "endless": (lambda index, blocks: blocks[0].update(weight_shape=[1 << 40] * 4), "sizes"),
    "axis": (lambda index, blocks: blocks[0].update(axis=-1), "damaged|impossible|Linear"),
    "scaling": (lambda index, blocks: blocks[0].update(scaling="sample"), "cannot be used"),
    "mode": (lambda index, blocks: blocks[0].update(mode="tensor"), "damaged"),
    "step without table": (_tail(lambda step: step.__setitem__(1, 0)), "table"),
    "unknown step": (_tail(lambda step: step.__setitem__(0, "exp")), "impossible"),
    "infinite eps": (_tail(lambda step: step.__setitem__(2, 10**400)), "damaged"),
    "enlarging shortcut": (
        lambda index, blocks: next(b for b in blocks if b["shortcut"])["shortcut"].__setitem__(
            4, [1000, 1000]
        ),
        "another size",
    ),
    "no fields": (lambda index, blocks: blocks[0].pop("fields"), "fields"),
    "another stride": (
        lambda index, blocks: blocks[0]["geometry"].__setitem__(0, [2, 2]), "stride|another size",
    ),
    "parts of nothing": (
        lambda index, blocks: _parts(index).update(parts=[]), "0 blocks cannot be",
    ),
    "parts of parts": (
        lambda index, blocks: _parts(index).update(parts=[dict(_parts(index))]),
        "parts are not blocks|nested",
    ),
    "an unknown form": (lambda index, blocks: _parts(index).update(form="out"), "cannot be a"),
    "a layer of no class": (
        lambda index, blocks: _parts(index).update(layer="eval"), "cannot be a",
    ),
    "another layer": (lambda index, blocks: _parts(index).update(layer="Linear"), "in the file"),
    "another shape": (
        lambda index, blocks: _parts(index).update(shape=[1, 2, 3, 3]), "in the file",
    ),
    "absorbed in the tree": (
        lambda index, blocks: (blocks[0].clear(), blocks[0].update({"is": "absorbed"})),
        "product|belong|bytes",
    ),
    "a matmul absorbed": (
        lambda index, blocks: index["calls"][0].__setitem__(1, "matmul"), "does not fit|absorbed",
    ),
}  # fmt: skip


def _parts(index: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(s for s in index["specs"] if s["is"] == "parts")
    return found


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_refused_with_a_sentence(
    what: str, stored: tuple[bytes, nn.Module], tmp_path: Path
) -> None:
    data, net = stored
    refused(data, net, *DAMAGE[what], tmp_path / "out")


def refused(data: bytes, net: nn.Module, change: Change, said: str, place: Path) -> None:
    """A file whose index was changed, and signed anew, is refused with that sentence."""
    blobs, metadata = container.read(data, "it")
    index = json.loads(zlib.decompress(base64.b64decode(metadata["index"])))
    change(index, [spec for spec in index["specs"] if spec["is"] == "block"])
    text = base64.b64encode(zlib.compress(json.dumps(index).encode())).decode()
    plain = {name: bytes(part) for name, part in blobs.items()}
    changed = container.write(plain, {**metadata, "index": text})
    folder.write(place, {folder.MODEL: changed}, 2, overwrite=True)
    with pytest.raises(LoadError, match=said) as caught:
        load(place, model=net)
    assert "\n" not in str(caught.value)


def _end(**change: Any) -> Change:
    return lambda index, blocks: next(s for s in index["specs"] if s["is"] == "end").update(change)


@pytest.mark.parametrize(
    "change, said",
    [
        (_end(channels=1 << 31), "cannot be"),
        (_end(channels=1 << 40), "channels"),
        (_end(act="exp"), "no '?exp'? on axis 1"),
        (_end(axis=2), "the axis of"),
        (_end(axis=0), "on axis 0"),
        (_end(axis=True), "the axis of"),
        (_end(fields={}), "missing"),
    ],
)
def test_a_damaged_activation_behind_a_sum_is_refused(
    change: Change, said: str, tmp_path: Path
) -> None:
    from bitcompress.artifact.encode import encode

    student, edits, model = packed("resnet", "reactnet")
    refused(encode(student, LIVE, edits), model.net, change, said, tmp_path / "out")


def test_parts_of_several_shapes_are_refused(tmp_path: Path) -> None:
    student, edits, model = packed("unet", "bidiffsr")
    parts = next(m for m in student.modules() if isinstance(m, Parts) and m.form == "down")
    one = parts.parts[0]
    assert isinstance(one, PackedBlock)
    one.geometry = replace(one.geometry, padding=(0, 0))
    save_model(student, LIVE, tmp_path / "o", edits=edits)
    with pytest.raises(LoadError, match="its parts are not of one shape"):
        load(tmp_path / "o", model=model.net)
