"""Packed folders with their bytes changed, cut and mixed: a sentence or a model, nothing else.

    python tests/fuzz/fuzz_reader.py --seconds 60 --seed 7

`--native` names another build of the native module, that of `make test-hostile` with sanitizers,
and `--at` a file for the round at work.

Each round takes a folder of `tests/golden`, changes its model file, signs it anew (or not), loads
it and runs it. What comes back must be a `BitcompressError` of one sentence, or a picture of the
right size. The file of a round that does something else is kept as `--keep`.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import torch

from bitcompress.artifact import container, describe, folder, load
from bitcompress.errors import BitcompressError

GOLDEN = Path(__file__).parents[1] / "golden"
SEEDS = [GOLDEN / "packed-format-2", GOLDEN / "packed-binary-2"]
ODD = [
    None,
    True,
    -1,
    0,
    1,
    2,
    255,
    1 << 31,
    1 << 62,
    10**30,
    0.5,
    1e300,
    "",
    "linear",
    [],
    {},
    [[]],
]
Data = bytes


def replace_bytes(data: Data, chance: random.Random) -> Data:
    """A few bytes become others."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def flip_a_bit_of_the_header(data: Data, chance: random.Random) -> Data:
    """A bit of what says where everything is."""
    changed = bytearray(data)
    changed[chance.randrange(min(len(changed), 4096))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(data: Data, chance: random.Random) -> Data:
    """The end is missing."""
    return data[: chance.randrange(len(data))]


def move(data: Data, chance: random.Random) -> Data:
    """A part of the file stands at another place too, or instead."""
    first, last = sorted(chance.randrange(len(data)) for _ in range(2))
    to = chance.randrange(len(data))
    return data[:to] + data[first:last] + data[to + chance.choice([0, last - first]) :]


def lengthen(data: Data, chance: random.Random) -> Data:
    """More bytes than belong to it."""
    return data + chance.randbytes(chance.randint(1, 64))


def change_the_index(data: Data, chance: random.Random) -> Data:
    """Values of the index become others, are exchanged, or go."""
    blobs, metadata = container.read(data, "it")
    index = json.loads(zlib.decompress(base64.b64decode(metadata["index"])))
    for _ in range(chance.randint(1, 3)):
        places = list(_places(index))
        holder, key = chance.choice(places)
        other, other_key = chance.choice(places)
        what = chance.randrange(4)
        if what == 0:
            holder[key] = chance.choice(ODD)
        elif what == 1:
            holder[key] = json.loads(json.dumps(other[other_key]))
        elif what == 2 and isinstance(holder[key], int):
            holder[key] += chance.choice([-1, 1])
        elif isinstance(holder, dict):
            del holder[key]
    return _with_index(blobs, metadata, json.dumps(index).encode())


def change_the_text_of_the_index(data: Data, chance: random.Random) -> Data:
    """The index is no JSON any more, or another one."""
    blobs, metadata = container.read(data, "it")
    text = zlib.decompress(base64.b64decode(metadata["index"]))
    return _with_index(blobs, metadata, replace_bytes(text, chance))


def change_the_numbers(data: Data, chance: random.Random) -> Data:
    """A vector is shorter, longer, or holds infinities."""
    blobs, metadata = container.read(data, "it")
    plain = {name: bytes(part) for name, part in blobs.items()}
    name = chance.choice(sorted(plain))
    change: Callable[[Data, random.Random], Data] = chance.choice([cut, lengthen, replace_bytes])
    plain[name] = change(plain[name], chance)
    width = container.BLOBS[name][1]
    plain[name] = plain[name][: len(plain[name]) // width * width]
    return container.write(plain, metadata)


CHANGES = [
    replace_bytes, flip_a_bit_of_the_header, cut, move, lengthen, change_the_index,
    change_the_index, change_the_text_of_the_index, change_the_numbers,
]  # fmt: skip


def _with_index(blobs: Any, metadata: dict[str, str], text: bytes) -> Data:
    index = base64.b64encode(zlib.compress(text)).decode()
    plain = {name: bytes(part) for name, part in blobs.items()}
    return container.write(plain, {**metadata, "index": index})


def _places(value: Any) -> Any:
    """Every (container, key) inside of a JSON value."""
    for key, child in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(child, dict | list):
            yield from _places(child)


def one(data: Data, place: Path, seed: int) -> str:
    """Change the file by a seed, load it, and say what came back.

    Raises: AssertionError, or what the reader let through.
    """
    chance = random.Random(seed)
    change = chance.choice(CHANGES)
    changed = change(data, chance)
    folder.write(place, {folder.MODEL: changed}, 1, overwrite=True)
    if chance.randrange(8) == 0:  # not signed by whoever changed it
        (place / folder.MODEL).write_bytes(replace_bytes(changed, chance) if changed else b"")
    try:
        describe(place)
        model = load(place).model
        with torch.no_grad():
            out = model(torch.zeros(1, 3, 8, 8))
        assert out.shape == (1, 3, 16, 16)
    except BitcompressError as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < 600, f"no sentence: {text!r}"
        return type(error).__name__
    return "loaded"


def run(
    seed: int, rounds: int, seconds: float, keep: Path | None = None, at: Path | None = None
) -> dict[str, int]:
    """So many rounds, or as many as go in the time: how often what came back.

    at: a file for the round at work, for whoever finds the process dead.
    """
    files = [(seed / folder.MODEL).read_bytes() for seed in SEEDS]
    end = time.monotonic() + seconds if seconds else float("inf")
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as root:
        place = Path(root) / "out"
        for number in range(seed, seed + rounds):
            if time.monotonic() > end:
                break
            if at is not None:
                at.write_text(f"{number} --rounds 1")
            try:
                outcome = one(files[number % len(files)], place, number)
            except Exception:
                if keep is not None:
                    keep.write_bytes((place / folder.MODEL).read_bytes())
                print(f"failed: --seed {number} --rounds 1", file=sys.stderr)
                raise
            counts[outcome] = counts.get(outcome, 0) + 1
    return counts


def use_native(path: Path) -> None:
    """Take the native module from a file. Raises: ImportError where it is none."""
    loader = ExtensionFileLoader("bitcompress._native", str(path))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    sys.modules[loader.name] = module_from_spec(spec)
    loader.exec_module(sys.modules[loader.name])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1 << 40)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--keep", type=Path, default=Path("failed.safetensors"))
    parser.add_argument("--native", type=Path)
    parser.add_argument("--at", type=Path)
    chosen = parser.parse_args()
    if chosen.native is not None:
        use_native(chosen.native)
    torch.set_num_threads(1)
    print(run(chosen.seed, chosen.rounds, chosen.seconds, chosen.keep, chosen.at))


if __name__ == "__main__":
    main()
