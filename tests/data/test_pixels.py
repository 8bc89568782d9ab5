"""Decoded pixels on disk: made once, mapped afterwards, and never believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitcompress.data.pixels import cache_folder, kept, mapped
from bitcompress.errors import OutputError

SHAPE = (3, 2, 2, 3)


class Fill:
    """Writes a pattern and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, pixels: np.ndarray) -> None:
        self.times += 1
        pixels[:] = np.arange(pixels.size, dtype=np.uint8).reshape(pixels.shape)


def test_made_once_and_mapped_afterwards(tmp_path: Path) -> None:
    fill = Fill()
    one = kept(tmp_path / "new", "pixels", SHAPE, fill)
    two = kept(tmp_path / "new", "pixels", SHAPE, fill)
    assert fill.times == 1 and (one == two).all() and one.sum() > 0
    assert (np.load(tmp_path / "new" / "pixels.npy", allow_pickle=False) == one).all()
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["pixels.npy"]


def other(path: Path, kind: str) -> None:
    """A file that is not the array that is expected."""
    good = np.zeros(SHAPE, dtype=np.uint8)
    if kind == "object":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif kind == "dtype":
        np.save(path, good.astype(np.int8))
    elif kind == "shape":
        np.save(path, np.zeros((9, *SHAPE[1:]), dtype=np.uint8))
    elif kind == "order":
        np.save(path, np.asfortranarray(good))
    else:
        np.save(path, good)
        data = path.read_bytes()
        damaged = {
            "short": data[:-1], "long": data + b"\0", "empty": b"", "magic": b"X" + data[1:],
            "header": data[:10] + b"[" * 118 + data[128:], 
            "length": data[:8] + b"\xff\xff" + data[10:],
        }  # fmt: skip
        path.write_bytes(damaged[kind])


KINDS = ["object", "dtype", "shape", "order", "short", "long", "empty", "magic", "header", "length"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_something_else_is_made_anew(tmp_path: Path, kind: str) -> None:
    other(tmp_path / "pixels.npy", kind)
    assert mapped(tmp_path / "pixels.npy", SHAPE) is None
    fill = Fill()
    assert kept(tmp_path, "pixels", SHAPE, fill).sum() > 0 and fill.times == 1
    assert mapped(tmp_path / "pixels.npy", SHAPE) is not None


def test_a_failed_decode_leaves_nothing(tmp_path: Path) -> None:
    def fail(pixels: np.ndarray) -> None:
        raise RuntimeError("broken picture")

    with pytest.raises(RuntimeError, match="broken"):
        kept(tmp_path, "pixels", SHAPE, fail)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="free some space or name another folder"):
        kept(tmp_path / "file" / "inside", "pixels", SHAPE, Fill())
    monkeypatch.setenv("BITCOMPRESS_CACHE", str(tmp_path / "file"))
    assert cache_folder() == tmp_path / "file"
    assert kept(None, "pixels", SHAPE, Fill()).sum() > 0
