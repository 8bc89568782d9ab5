"""Labelled folders and zips: the same pictures either way, and every way to be none."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from bitcompress.data import archive
from bitcompress.data.images import read_image, write_image
from bitcompress.data.labelled import fitted, open_held, open_labelled
from bitcompress.errors import DataError


def filled(root: Path, *names: str, size: tuple[int, int] = (6, 6)) -> Path:
    """Noise pictures of the given names."""
    random = np.random.default_rng(len(names))
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(root / name, random.integers(0, 256, (*size, 3), dtype=np.uint8))
    return root


def zipped(root: Path) -> Path:
    target = root.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root).as_posix())
        archive.writestr("README.txt", "not a picture")
        archive.writestr("__MACOSX/train/a/0.png", b"not a picture either")
    return target


NAMES = [f"{part}/{c}/{i}.png" for part in ("train", "test") for c in "abc" for i in range(2)]


def test_a_zip_is_the_folder_that_was_packed(tmp_path: Path) -> None:
    root = filled(tmp_path / "set", *NAMES)
    for source in (root, zipped(root)):
        train, test = open_labelled(source, cache=tmp_path / "cache")
        assert train.classes == test.classes == ("a", "b", "c")
        assert train.labels.tolist() == test.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert train.counts().tolist() == [2, 2, 2] and len(test) == 6
        for number, name in enumerate(NAMES[:6]):
            assert (train.pictures[number] == read_image(root / name)).all()
        assert (test.pictures[5] == read_image(root / NAMES[11])).all()
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_changed_pictures_are_decoded_anew(tmp_path: Path) -> None:
    root = filled(tmp_path / "set", *NAMES)
    before, _ = open_labelled(zipped(root), cache=tmp_path)
    first = np.array(before.pictures)
    filled(root, NAMES[0])
    after, _ = open_labelled(zipped(root), cache=tmp_path)
    assert (after.pictures[0] != first[0]).any() and (after.pictures[1:] == first[1:]).all()


def test_without_a_test_part_each_fifth_is_held_out(tmp_path: Path) -> None:
    names = [f"{c}/{i:02}.png" for c in ("x", "y") for i in range(7)]
    root = filled(tmp_path / "set", *names, "z/0.png", "z/1.png")
    train, test = open_labelled(root)
    assert train.counts().tolist() == [6, 6, 1] and test.counts().tolist() == [1, 1, 1]
    assert (test.pictures[1] == read_image(root / "y/04.png")).all()


def test_another_folder_is_measured_on(tmp_path: Path) -> None:
    root = filled(tmp_path / "set", *NAMES)
    train, _ = open_labelled(root)
    other = filled(tmp_path / "other", "c/0.png", "a/0.png", size=(12, 9))
    held = open_held(other, train)
    assert held.labels.tolist() == [0, 2] and held.pictures.shape == (2, 6, 6, 3)
    assert open_held(root, train).labels.tolist() == [0, 0, 1, 1, 2, 2]  # its test part


def test_pictures_are_fitted_to_one_size(tmp_path: Path) -> None:
    root = filled(tmp_path / "set", "a/0.png", "b/0.png", "b/1.png")
    filled(root, "a/1.png", size=(8, 9))
    with pytest.raises(DataError, match=r"1.png is 9x8 and the first picture 6x6: give a size"):
        open_labelled(root)
    train, _ = open_labelled(root, size=5)
    assert train.pictures.shape == (2, 5, 5, 3)
    picture = read_image(root / "a/1.png")
    assert (fitted(picture, 8) == picture[:, :8]).all()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.png"], "holds no labelled picture: put the pictures of each class into a folder"),
        (["a/0.png", "a/1.png"], "has the one class 'a'"),
        (["train/a/0.png", "train/b/0.png", "test/c/0.png"], "the test part has the class 'c'"),
        (["test/a/0.png", "test/b/0.png"], "holds no labelled picture"),
    ],
)
def test_what_is_not_labelled_is_refused(tmp_path: Path, names: list[str], said: str) -> None:
    root = filled(tmp_path / "set", *names)
    for source in (root, zipped(root)):
        with pytest.raises(DataError, match=said):
            open_labelled(source, cache=tmp_path)


def test_empty_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder or zip"):
        open_labelled(tmp_path / "nothing")
    root = filled(tmp_path / "set", "a/0.png", "b/0.png")
    (root / "c").mkdir()
    with pytest.raises(DataError, match="c holds no picture: fill the class"):
        open_labelled(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no labelled picture"):
        open_labelled(tmp_path / "empty")


def test_damaged_zips_are_refused(tmp_path: Path) -> None:
    path = zipped(filled(tmp_path / "set", *NAMES))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(DataError, match="cannot be read as a zip"):
        open_labelled(path, cache=tmp_path)
    place = whole.index(b"IDAT")
    path.write_bytes(whole[:place] + b"XXXXXX" + whole[place + 6 :])
    with pytest.raises(DataError, match=r"is damaged at test/a/0.png .*fetch or pack it anew"):
        open_labelled(path, cache=tmp_path)
    assert not list(tmp_path.glob("*-test-*.npy"))


def test_a_zip_that_lies_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(filled(tmp_path / "set", *NAMES))
    with monkeypatch.context() as patch:
        patch.setattr(archive, "LARGEST_FILE", 20)
        with pytest.raises(DataError, match="more than a picture may have"):
            open_labelled(path, cache=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(archive, "MOST_FILES", 3)
        with pytest.raises(DataError, match="lists 22 files, more than 3"):
            open_labelled(path, cache=tmp_path)
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("train/a/broken.png", b"no picture")
    with pytest.raises(DataError, match="broken.png cannot be read as a picture"):
        open_labelled(path, cache=tmp_path)


def test_names_that_climb_are_left_out(tmp_path: Path) -> None:
    root = filled(tmp_path / "set", "0.png")
    path = tmp_path / "climb.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name in ("../../a/0.png", "c/0.png", "c/1.png", "/b/0.png", "/b/1.png"):
            packed.writestr(name, (root / "0.png").read_bytes())
    before = sorted(tmp_path.rglob("*"))
    train, test = open_labelled(path, cache=tmp_path / "cache")
    assert train.classes == ("b", "c") and len(train) == len(test) == 2
    assert [f for f in sorted(tmp_path.rglob("*")) if "cache" not in f.parts] == before


def test_the_real_zip_lists_all_of_cifar(shared: Path) -> None:
    names = archive.picture_names(shared / "data" / "cifar10_jpeg.zip")
    assert len(names) == 60_000
    picture = next(archive.read_pictures(shared / "data" / "cifar10_jpeg.zip", names[:1]))
    assert picture.shape == (32, 32, 3)
