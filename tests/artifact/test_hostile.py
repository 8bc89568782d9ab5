"""Files that were made to do harm, their checksums right: a LoadError, in little memory."""

from __future__ import annotations

import base64
import json
import resource
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitcompress.artifact import container, describe, folder, load
from bitcompress.artifact.decode import decode
from bitcompress.errors import BitcompressError, LoadError

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def saved(make: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small packed DAT as the bytes of its model.safetensors."""
    place = make("dat", fold=False).save(tmp_path_factory.mktemp("saved") / "out")
    return (place / "model.safetensors").read_bytes()


def edited(data: bytes, change: Change) -> bytes:
    """The same file with another index."""
    blobs, metadata = container.read(data, "it")
    index = json.loads(zlib.decompress(base64.b64decode(metadata["index"])))
    change(index)
    text = base64.b64encode(zlib.compress(json.dumps(index).encode())).decode()
    plain = {name: bytes(part) for name, part in blobs.items()}
    return container.write(plain, {**metadata, "index": text})


def in_folder(place: Path, data: bytes) -> Path:
    folder.write(place, {"model.safetensors": data}, 1, overwrite=True)
    return place


def spec(kind: str, **values: Any) -> Change:
    """Changes the first record of a kind."""

    def change(index: dict[str, Any]) -> None:
        next(s for s in index["specs"] if s["is"] == kind).update(values)

    return change


def config(**values: Any) -> Change:
    return lambda index: index["source"]["config"].update(values)


def field(kind: str, name: str, value: Any) -> Change:
    def change(index: dict[str, Any]) -> None:
        next(s for s in index["specs"] if s["is"] == kind)["fields"][name] = value

    return change


GEOMETRY = [[1, 1], [1, 1], [1, 1], 1, "zeros", [0, 0, 0, 0], [0, 0]]


def geometry(place: int, value: Any) -> Change:
    return spec("conv2d", geometry=[*GEOMETRY[:place], value, *GEOMETRY[place + 1 :]])


def tree(**values: Any) -> Change:
    return lambda index: index["tree"].update(values)


def without_numbers(index: dict[str, Any]) -> None:
    """A norm's weight, one number repeated in the file, said to be taken over by a call."""
    record = next(s for s in index["specs"] if s["is"] == "parameter" and s["as"] == ["value", 1.0])
    shape = record["shape"]
    record.clear()
    record.update({"is": "absent parameter", "shape": shape})


CASES: dict[str, tuple[Change, str]] = {
    "bits 9": (spec("linear", bits=[9, 2]), "the bits of"),
    "bits 0": (spec("linear", bits=[2, 0]), "the bits of"),
    "bits as text": (spec("linear", bits="22"), "a list of 2"),
    "no bits": (lambda i: i["specs"][0].pop("bits"), "'bits' is missing"),
    "absurd shape": (spec("linear", shape=[1 << 30, 1 << 30], groups=1), "bytes of 'codes'"),
    "negative shape": (spec("linear", shape=[-1, 5]), "whole number"),
    "no size": (spec("linear", shape=[0, 5]), "none 0"),
    "too many sizes": (spec("linear", shape=[2, 2, 2]), "2 sizes"),
    "a huge number": (spec("linear", shape=[10**400, 5]), "whole number"),
    "grids": (spec("linear", groups=7), "grids for"),
    "a kind": (spec("linear", **{"is": "script"}), "unknown here"),
    "a kind of no text": (spec("linear", **{"is": []}), "a text is needed"),
    "parts of nothing": (spec("linear", **{"is": "split"}, parts=[]), "not linears"),
    "parts in parts": (
        spec("linear", **{"is": "split"}, parts=[{"is": "split", "parts": []}]), "not linears"
    ),
    "heads": (spec("matmul", heads=[1 << 30, 3]), "bytes of 'full'"),
    "per length": (spec("matmul", per_length=[1, 0]), "per_length"),
    "stride 0": (geometry(0, [0, 1]), "whole number"),
    "padding": (geometry(1, [1 << 20, 1]), "whole number"),
    "groups": (geometry(3, 7), "groups"),
    "mode": (geometry(4, "mirror"), "padding mode"),
    "mode of no text": (geometry(4, ["zeros"]), "padding mode"),
    "margin": (geometry(5, [0, 0]), "a list of 4"),
    "other geometry": (geometry(0, [2, 2]), "another stride"),
    "coding": (field("linear", "bias", "third"), "a list of 2"),
    "an unknown field": (field("linear", "more", "half"), "an unknown 'more'"),
    "no fields": (spec("linear", fields={}), "has no"),
    "giant constants": (
        spec("parameter", shape=[1 << 16, 1 << 14], **{"as": ["value", 0.0]}), "times one number"
    ),
    "a type": (spec("parameter", dtype="object"), "unknown type"),
    "a whole parameter": (
        spec("parameter", dtype="int64", **{"as": ["value", 3]}),
        "float32 in the model and torch.int64 in the file|to nothing",
    ),
    "a tensor in use without numbers": (without_numbers, "no numbers in the file and nothing"),
    "a renamed key": (lambda i: i["tree"].update(nurm=i["tree"].pop("norm")), "'nurm'"),
    "a missing tensor": (lambda i: i["tree"]["norm"].pop("bias"), "the model has|to nothing"),
    "an extra layer": (tree(extra=0), "bytes of"),
    "a call in nothing": (
        lambda i: i["calls"][0].__setitem__(0, "nowhere"), "a function call in it 'nowhere'"
    ),
    "an edit": (lambda i: i["edits"].append({"edit": "exec", "names": ["x"]}), "unknown here"),
    "an edit of nothing": (
        lambda i: i["edits"].append({"edit": "identity", "names": ["nothing"]}), "does not have"
    ),
    "an edit of the model": (
        lambda i: i["edits"].append({"edit": "identity", "names": [""]}), "no norm"
    ),
    "an opened layer": (
        lambda i: i["edits"].append({"edit": "decompose", "names": ["norm"]}), "one of file"
    ),
    "wider": (config(embed_dim=64), "in the model and"),
    "absurdly wide": (config(embed_dim=10**9), "cannot be built"),
    "absurdly deep": (config(depth=[10**12]), "more than"),
    "an absurd list": (config(depth=[2] * 20_000, num_heads=[4] * 20_000), "more than"),
    "an absurd scale": (config(upscale=1 << 200), "cannot be built|in the model"),
    "an absurd exponent": (config(expansion_factor=1e300), "cannot be built"),
    "deeper": (config(depth=[4]), "the model has"),
    "an odd number of heads": (config(num_heads=[3]), "even number of heads"),
    "an unknown setting": (config(exec="x"), "cannot be built"),
    "a setting of another type": (config(embed_dim="32"), "cannot be built"),
    "another architecture": (
        lambda i: i["source"].update(arch="edsr"), "cannot be built"
    ),
    "code to import": (lambda i: i["source"].update(arch="os:abort"), "may not choose code"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_hostile_indices(saved: bytes, tmp_path: Path, name: str) -> None:
    change, said = CASES[name]
    place = in_folder(tmp_path / "out", edited(saved, change))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LoadError, match=said):
        load(place)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, f"{grown} KiB for a file of {len(saved)} bytes"


def swapped(index: dict[str, Any], one: str, two: str) -> None:
    """Exchange what two kinds of records say."""
    first, second = (next(s for s in index["specs"] if s["is"] == kind) for kind in (one, two))
    kept = dict(first)
    for changed, by in ((first, dict(second)), (second, kept)):
        changed.clear()
        changed.update(by)


FUNCTIONAL: dict[str, tuple[Change, str]] = {
    "a weight is there twice": (
        lambda i: next(s for s in i["specs"] if s["is"] == "absent parameter").update(
            {"is": "parameter", "dtype": "float32", "as": ["value", 1.0]}
        ),
        "keeps one too",
    ),
    "a product as a linear": (lambda i: swapped(i, "matmul", "linear"), "does not fit|a product"),
    "a call of another kind": (
        lambda i: next(c for c in i["calls"] if c[1] == "linear").__setitem__(1, "matmul"),
        "does not fit a matmul",
    ),
    "a part of no attention": (
        lambda i: next(c for c in i["calls"] if c[1] == "sdpa").__setitem__(3, ""),
        "does not fit a sdpa",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_hostile_records_of_function_calls(make: Any, tmp_path: Path, name: str) -> None:
    made = make("functional")
    data = (made.save(tmp_path / "out") / "model.safetensors").read_bytes()
    change, said = FUNCTIONAL[name]
    place = in_folder(tmp_path / "bad", edited(data, change))
    with pytest.raises(LoadError, match=said):
        load(place, made.float_model)


def test_an_index_that_says_the_same_loads(saved: bytes, tmp_path: Path) -> None:
    load(in_folder(tmp_path / "out", edited(saved, lambda index: None)))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"format": "other"}, "no packed model"),
        ({"format_version": "7"}, "format_version 7, this bitcompress reads 1"),
        ({"format_version": "one"}, "format_version 'one', this bitcompress reads 1"),
        ({"format_version": "9" * 5000}, "this bitcompress reads 1"),
        ({"index": ""}, "does not end"),
    ],
)
def test_hostile_metadata(saved: bytes, metadata: dict[str, str], said: str) -> None:
    blobs, known = container.read(saved, "it")
    plain = {name: bytes(part) for name, part in blobs.items()}
    with pytest.raises(LoadError, match=said):
        decode(container.write(plain, {**known, **metadata}))


def test_weights_that_are_no_numbers(saved: bytes) -> None:
    blobs, metadata = container.read(saved, "it")
    for name in ("half", "full"):
        plain = {n: bytes(part) for n, part in blobs.items()}
        plain[name] = b"\xff" * len(plain[name])
        with pytest.raises(LoadError, match="finite numbers|NaN or infinite"):
            decode(container.write(plain, metadata))


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 100, 5000, -1])
def test_cut_files(saved: bytes, tmp_path: Path, cut: int) -> None:
    place = in_folder(tmp_path / "out", saved)
    (place / "model.safetensors").write_bytes(saved[:cut])
    with pytest.raises(LoadError, match="is cut off: it has"):
        load(place)
    with pytest.raises(LoadError):
        decode(saved[:cut])


small = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
edits = st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def tiny(make: Any) -> Any:
    """The smallest packed model, which hypothesis saves again and again."""
    return make("one-linear")


@small
@given(edits)
def test_any_bytes_changed_on_disk_are_noticed(
    tiny: Any, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    place = tiny.save(tmp_path_factory.mktemp("fuzz") / "out")
    path = place / "model.safetensors"
    data = bytearray(path.read_bytes())
    before = bytes(data)
    for position, byte in changes:
        data[position % len(data)] = byte
    path.write_bytes(data)
    try:
        loaded = load(place, tiny.float_model)
    except LoadError:
        assert bytes(data) != before
        return
    assert torch.equal(tiny.run(), tiny.run(loaded.model))


@small
@given(edits)
def test_any_bytes_changed_by_someone_who_signs_them_do_no_harm(
    tiny: Any, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    data = bytearray((tiny.save(root / "out") / "model.safetensors").read_bytes())
    for position, byte in changes:
        data[position % len(data)] = byte
    survives(tiny, in_folder(root / "signed", bytes(data)))


def survives(tiny: Any, place: Path) -> None:
    """Loading gives a LoadError, or a model that runs or says why it does not."""
    try:
        describe(place)
        loaded = load(place, tiny.float_model)
        out = tiny.run(loaded.model)
    except BitcompressError:
        return
    assert out.shape == tiny.run().shape


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False)
    | st.sampled_from(["", "half", "linear", "value", "float32", "0"]) | st.just(1 << 40),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside of a JSON value."""
    found: list[tuple[Any, Any]] = []
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in steps:
        found.append((value, key))
        if isinstance(child, dict | list):
            found += places(child)
    return found


@small
@given(st.integers(0, 1 << 30), values)
def test_any_value_of_the_index_replaced_does_no_harm(
    tiny: Any, tmp_path_factory: pytest.TempPathFactory, position: int, value: Any
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    data = (tiny.save(root / "out") / "model.safetensors").read_bytes()

    def change(index: dict[str, Any]) -> None:
        found = places(index)
        holder, key = found[position % len(found)]
        holder[key] = value

    survives(tiny, in_folder(root / "signed", edited(data, change)))
