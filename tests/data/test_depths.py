"""Pictures with depths: files of all kinds, and the stereo pair by its calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from bitcompress.data.depths import open_depths, read_depth, stereo_pair
from bitcompress.data.images import write_image
from bitcompress.errors import DataError


def add(root: Path, *names: str) -> Path:
    for folder in ("images", "depth"):
        (root / folder).mkdir(exist_ok=True)
    for name in names:
        write_image(root / "images" / f"{name}.png", np.zeros((3, 4, 3), np.uint8))
        np.save(root / "depth" / f"{name}.npy", np.full((3, 4), 2.5))
    return root


def test_depths_of_files(tmp_path: Path) -> None:
    stored = np.array([[0, 1000], [2500, 65535]], dtype=np.uint16)
    PIL.Image.fromarray(stored).save(tmp_path / "d.png")
    assert read_depth(tmp_path / "d.png", 0.001).tolist() == [
        [0, 1], [2.5, np.float32(65.535)],
    ]  # fmt: skip
    assert read_depth(tmp_path / "d.png", 1 / 256)[0, 1] == np.float32(1000 / 256)
    np.save(tmp_path / "d.npy", np.array([[np.nan, np.inf, -1.0, 0.0, 3.25]]))
    assert read_depth(tmp_path / "d.npy", 0.001).tolist() == [[0, 0, 0, 0, 3.25]]


def test_a_folder_of_both(tmp_path: Path) -> None:
    train, test = open_depths(add(tmp_path, *"abcdef"))
    assert train.names == tuple("abcdf") and test.names == ("e",)
    picture, depth = test.pair(0)
    assert picture.shape == (3, 4, 3) and (depth == 2.5).all() and depth.dtype == np.float32


def test_depths_that_are_none(tmp_path: Path) -> None:
    root = add(tmp_path, "a", "b")
    path = root / "depth" / "b.npy"
    wrong = {
        "knows no depth": np.zeros((3, 4)),
        "an array .H, W. of metres is expected": np.zeros((3, 4, 1)),
        "b.png is 4x3 and its depths 5x3": np.ones((3, 5)),
        "of metres is expected": np.full((3, 4), "x"),
    }
    for said, array in wrong.items():
        np.save(path, array)
        with pytest.raises(DataError, match=said):
            open_depths(root)
    np.save(path, np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read as an array of depths"):
        open_depths(root)
    path.unlink()
    write_image(root / "depth" / "b.png", np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(DataError, match="in colours, no depths"):
        open_depths(root)
    (root / "depth" / "b.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read as depths"):
        open_depths(root)


def test_the_stereo_pair_by_its_calibration() -> None:
    data = pytest.importorskip("skimage.data")
    left, _, disparity = data.stereo_motorcycle()
    train, test = open_depths(Path("stereo"))
    picture = np.concatenate([train.pair(0)[0], test.pair(0)[0]], 1)
    depth = np.concatenate([train.pair(0)[1], test.pair(0)[1]], 1)
    assert (picture == left).all() and ((depth > 0) == np.isfinite(disparity)).all()
    where = np.argwhere(np.isfinite(disparity))[::5000]
    for row, column in where:
        metres = 994.978 * 193.001e-3 / (float(disparity[row, column]) + 31.086)
        assert depth[row, column] == np.float32(metres)
    assert depth[depth > 0].min() > 2 and depth.max() < 6
    assert stereo_pair()[0].name == "stereo train"
