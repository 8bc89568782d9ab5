"""Pictures with labels: layouts, numbers and colours, and what is no label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from bitcompress.data.beside import LABEL_WORDS, has_maps
from bitcompress.data.images import write_image
from bitcompress.data.labels import CAMVID, VOID, LabelMap, read_label_map, read_labels
from bitcompress.data.maps import Windows
from bitcompress.data.segments import open_segments
from bitcompress.errors import DataError, UsageError

SIZE = (6, 8)


def add(root: Path, pictures: str, labels: str, *names: str, number: int = 1) -> Path:
    """Pictures and grey labels, all pixels of which have one number but one void pixel."""
    for folder in (pictures, labels):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        write_image(root / pictures / f"{name}.png", np.full((*SIZE, 3), 9, np.uint8))
        told = np.full(SIZE, number, np.uint8)
        told[0, 0] = VOID
        PIL.Image.fromarray(told).save(root / labels / f"{name}.png")
    return root


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (("train", "trainannot"), ("test", "testannot")),
        (("train", "train_labels"), ("val", "val_labels")),
        (("images/train", "labels/train"), ("images/val", "labels/val")),
        (("train/images", "train/masks"), ("test/images", "test/masks")),
    ],
)
def test_layouts(tmp_path: Path, train: tuple[str, str], test: tuple[str, str]) -> None:
    add(tmp_path, *train, "a", "b")
    add(tmp_path, *test, "c", number=3)
    assert has_maps(tmp_path, LABEL_WORDS)
    got, held, classes = open_segments(tmp_path)
    assert got.names == ("a", "b") and held.names == ("c",)
    assert set(np.unique(held.pair(0)[1])) == {3, VOID}
    assert len(classes.names) == (11 if train[1] == "trainannot" else 4)


def test_without_a_test_part_each_fifth_is_held_out(tmp_path: Path) -> None:
    train, test, _ = open_segments(add(tmp_path, "images", "labels", *"abcdefg"))
    assert train.names == tuple("abcdfg") and test.names == ("e",)


def test_names_of_labels_may_have_an_ending(tmp_path: Path) -> None:
    add(tmp_path, "images", "labels", "a", "b")
    (tmp_path / "labels" / "a.png").rename(tmp_path / "labels" / "a_L.png")
    assert open_segments(tmp_path)[0].names == ("a",)


def test_camvid_by_number_and_by_colour(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    PIL.Image.fromarray(numbers).save(tmp_path / "number.png")
    colours = np.array([c for _, c in CAMVID.entries], dtype=np.uint8)
    write_image(tmp_path / "colour.png", colours[numbers])
    palette = PIL.Image.fromarray(numbers).convert("P")
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    palette.putdata(list(range(12)))
    palette.save(tmp_path / "palette.png")
    wanted = numbers.copy()
    wanted[numbers == 11] = VOID
    for name in ("number", "colour", "palette"):
        assert (read_labels(tmp_path / f"{name}.png", CAMVID) == wanted).all(), name
    assert len(CAMVID.names) == 11 and len(set(CAMVID.colours)) == 11


def test_classes_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("road 1 2 3\nVoid\n\ncar\n")
    classes = read_label_map(path)
    assert classes.names == ("road", "car")
    assert classes.table()[:3].tolist() == [0, VOID, 1] and classes.table()[VOID] == VOID
    assert (
        classes.colours[0] == (1, 2, 3) and len(set(LabelMap((("x", None),) * 250).colours)) == 250
    )
    add(tmp_path, "images", "labels", "a", "b", number=2)
    labels = open_segments(tmp_path)[0].pair(0)[1]
    assert set(np.unique(labels)) == {1, VOID}
    for text in ("road 1 2", "road 1 2 300", "road blue", "a\na", ""):
        path.write_text(text)
        with pytest.raises(DataError, match="is no class|must list"):
            read_label_map(path)


def test_windows_repeat_and_show_void_outside(tmp_path: Path) -> None:
    maps, _, _ = open_segments(add(tmp_path, "images", "labels", *"abcdef"))
    cut = Windows((8, 8), (0.5, 2.0), VOID)
    whole = maps.batch(3, 5, 4, np.arange(4), cut)
    part = maps.batch(3, 5, 4, np.array([2]), cut)
    assert all((a[2] == b[0]).all() for a, b in zip(whole, part, strict=True))
    again = maps.batch(3, 5, 4, np.arange(4), cut)
    assert all((a == b).all() for a, b in zip(whole, again, strict=True))
    assert whole[0].shape == (4, 8, 8, 3) and set(np.unique(whole[1])) <= {1, VOID}


def test_what_is_no_labelled_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_segments(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no pictures with maps: give folders like train"):
        open_segments(tmp_path)
    add(tmp_path, "images", "labels", "a")
    with pytest.raises(DataError, match="holds one picture"):
        open_segments(tmp_path)
    add(tmp_path, "images", "labels", "b")
    with pytest.raises(UsageError, match="no label map 'moon'; known are camvid"):
        open_segments(tmp_path, "moon")
    write_image(tmp_path / "images" / "c.png", np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(DataError, match="c.png has no map of its name in labels"):
        open_segments(tmp_path)


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    add(tmp_path, "train", "trainannot", "a", "b", number=17)
    with pytest.raises(DataError, match=r"has the label 17, but there are 12 classes \(0 to 11"):
        open_segments(tmp_path)
    add(tmp_path, "train", "trainannot", "a", "b", number=VOID)
    with pytest.raises(DataError, match="no pixel has a class, all are void"):
        open_segments(tmp_path)
    add(tmp_path, "train", "trainannot", "a", "b")
    PIL.Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "trainannot" / "b.png")
    with pytest.raises(DataError, match="b.png is 8x6 and its labels 3x3"):
        open_segments(tmp_path)
    write_image(tmp_path / "trainannot" / "b.png", np.full((*SIZE, 3), 5, np.uint8))
    with pytest.raises(DataError, match=r"has the colour \(5, 5, 5\), which is no class"):
        open_segments(tmp_path)
    (tmp_path / "trainannot" / "b.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read as a label picture"):
        open_segments(tmp_path)


def test_the_real_street_scenes(shared: Path) -> None:
    train, test, classes = open_segments(shared / "data" / "CamVid")
    assert (len(train), len(test), len(classes.names)) == (31, 15, 11)
    counts = sum(np.bincount(train.pair(i)[1].ravel(), minlength=256) for i in range(31))
    assert counts[:11].tolist() == [
        851384, 1343191, 53957, 1671960, 236239, 523692, 50612, 88893, 309092, 25991, 22148,
    ]  # fmt: skip
    assert counts[VOID] == 179641
