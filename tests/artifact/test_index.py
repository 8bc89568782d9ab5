"""The index comes back as it was, and damage of any kind is a LoadError."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from typing import Any

import pytest

from bitcompress.artifact.index import MAX_INDEX, Index, Product
from bitcompress.artifact.source import Source
from bitcompress.errors import LoadError
from bitcompress.graph.intercept import Call

SOURCE = Source("dat", {"depth": [2], "ratio": 2.5}, "sr", 2, 1.0, "ab" * 32, "a:B")
INDEX = Index(
    library="0.1.0",
    recipe="default",
    source=SOURCE,
    edits=(("identity", ("a.norm",)),),
    entries=(("a.b", {"is": "x"}), ("a.c", {"is": "y"}), ("d", {"is": "x"})),
    products=(
        Product(Call("a", "matmul", 0), "", "a@matmul.0", {"is": "x"}),
        Product(Call("a", "sdpa", 1), "qk", "other name", {"is": "z"}),
    ),
    same={"e": "d"},
)


def test_it_comes_back() -> None:
    assert Index.from_text(INDEX.to_text()) == INDEX
    alone = replace(INDEX, entries=(("", {"is": "x"}),), same={}, products=(), edits=())
    assert Index.from_text(alone.to_text()) == alone
    empty = replace(alone, entries=())
    assert Index.from_text(empty.to_text()) == empty


def test_equal_records_stand_in_it_once() -> None:
    assert unpacked()["specs"] == [{"is": "x"}, {"is": "y"}, {"is": "z"}]


def unpacked() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(INDEX.to_text())))
    return table


def packed(table: Any) -> str:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return base64.b64encode(zlib.compress(text)).decode()


def put(key: str, value: object) -> Any:
    return lambda table: table.__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *[(lambda t, k=key: t.pop(k), f"{key!r} is missing") for key in unpacked()],
        (put("specs", {}), "a list is needed"),
        (put("specs", [1, 2, 3]), "an object is needed"),
        (put("tree", {"a": 3}), "the record of 'a' is 3"),
        (put("tree", {"a": -1}), "the record of 'a' is -1"),
        (put("tree", {"a": True}), "the record of 'a' is True"),
        (put("tree", {"a": [0]}), "the record of 'a'"),
        (put("tree", {"a.b": 0}), "no name of a module"),
        (put("tree", {"": {"a": 0}}), "no name of a module"),
        (put("calls", [["a", "matmul", 0, ""]]), "a call has 4 parts"),
        (put("calls", [["a", "system", 0, "", 0]]), "unknown here"),
        (put("calls", [["a", "sdpa", 0, "kv", 0]]), "unknown here"),
        (put("calls", [["a", "sdpa", -1, "", 0]]), "whole number"),
        (put("calls", [[3, "sdpa", 0, "", 0]]), "a text is needed"),
        (put("calls", [["a", "sdpa", 0, "", 9]]), "the record of"),
        (put("calls", [["a", "sdpa", 0, "", 0]] * 2), "replaced twice"),
        (put("calls", [["a", "sdpa", 0, "", 0, "x"], ["a", "sdpa", 1, "", 0, "x"]]), "twice"),
        (put("edits", [3]), "an object is needed"),
        (put("edits", [{"edit": "x"}]), "'names' is missing"),
        (put("edits", [{"edit": "x", "names": [1]}]), "a text is needed"),
        (put("same", {"e": "nothing"}), "shares with nothing"),
        (put("same", {"d": "a.b"}), "shares with nothing"),
        (put("same", {"e": ["d"]}), "shares with nothing"),
        (put("recipe", 5), "a text is needed"),
        (put("recipe", "x" * 5000), "a text is needed"),
        (lambda t: t["source"].update(scale=0), "scale is 0"),
        (lambda t: t["source"].update(scale=2.0), r"scale is 2\.0"),
        (lambda t: t["source"].update(task=1), "task is 1"),
        (lambda t: t["source"].update(image_range="1"), "image_range"),
        (lambda t: t["source"].update(config=[]), "config"),
        (lambda t: t["source"].pop("arch"), "'arch' is missing"),
    ],
)
def test_damage(change: Any, said: str) -> None:
    table = unpacked()
    change(table)
    with pytest.raises(LoadError, match=said):
        Index.from_text(packed(table))


def nested(depth: int) -> Any:
    tree: Any = 0
    for _ in range(depth):
        tree = {"a": tree}
    return tree


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not end"),
        ("%%%", "is damaged"),
        ("äöü", "is damaged"),
        (base64.b64encode(b"no deflate").decode(), "is damaged"),
        (base64.b64encode(zlib.compress(b"{}")[:-3]).decode(), "does not end"),
        (base64.b64encode(zlib.compress(b"{}") + b"more").decode(), "does not end"),
        (packed(b"[" * 60_000), "nested too deeply"),
        (packed(b"[]"), "an object is needed"),
        (packed({**unpacked(), "tree": nested(300)}), "nested too deeply"),
        (packed(b" " * (MAX_INDEX + 1)), "does not end"),
        (packed(b'{"specs":[],"specs":[]}'), "'specs' stands in it twice"),
    ],
)
def test_bombs_and_rubbish(text: str, said: str) -> None:
    with pytest.raises(LoadError, match=said):
        Index.from_text(text)
