"""Pictures with a class each: folders CLASS/*.jpg, train and test of them, or a zip of the same.

All pictures of a set have one size and are held in one array, so that a batch is one gather.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitcompress.data import archive
from bitcompress.data.images import Picture, read_image
from bitcompress.data.layout import picture_files
from bitcompress.data.pixels import kept
from bitcompress.data.resize import imresize
from bitcompress.errors import DataError

PARTS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "test": ("test", "val", "valid", "validation"),
}
"""How folders of the two parts are called."""
HELD_OUT = 5
"""Without a test part each fifth picture of a class is kept for it."""
SMALL = 64 << 20
"""Bytes of pixels up to which nothing is kept on disk unless a folder for it is named."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Pictures of one size, and the number of the class of each.

    Shapes: pictures (N, H, W, 3) uint8, labels (N,) int64 below len(classes).
    """

    name: str
    pictures: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> NDArray[np.int64]:
        """How many pictures each class has. Shapes: (classes,)."""
        return np.bincount(self.labels, minlength=len(self.classes))


@dataclass(frozen=True)
class _Source:
    """Where pictures come from: their names, what tells one state of them from another, pixels."""

    path: Path
    names: tuple[str, ...]
    digest: str
    read: Callable[[Sequence[str]], Iterator[Picture]]


def open_labelled(
    path: Path, *, size: int | None = None, cache: Path | None = None
) -> tuple[Labelled, Labelled]:
    """The training and the test part of a labelled folder or zip.

    Classes are numbered in the order of their names. `size` scales the short side of each picture
    and takes the middle; without it all pictures must have one size. Decoded pixels are kept in
    `cache` (else, where they are many, in the user's cache folder) and mapped the next time.
    Raises: DataError where there is no labelled picture, a picture is damaged or has another size,
    a class of the test part is not trained, or a class is empty.
    """
    path = Path(path)
    source = _source(path)
    parts, classes = _sorted_out(path, source.names)
    shape = _shape(source, parts, size)
    found: dict[str, Labelled] = {}
    for part, members in parts.items():
        labels = np.array([classes.index(c) for c, _ in members], dtype=np.int64)
        names = [name for _, name in members]
        pixels = _pixels(source, part, names, shape, size, cache)
        found[part] = Labelled(f"{path.stem} {part}", pixels, labels, classes)
    return found["train"], found["test"]


def open_held(path: Path, like: Labelled, *, cache: Path | None = None) -> Labelled:
    """All labelled pictures of a folder or zip as a test part for what `like` trains.

    Of a source that has a test part only that one is taken. Pictures are scaled to the size of
    `like` where they have another. Raises: DataError as `open_labelled`.
    """
    source = _source(Path(path))
    members = [(n.split("/")[-2], n) for n in source.names if "/" in n]
    words = PARTS["test"]
    members = [m for m in members if m[1].split("/")[0].lower() in words] or members
    unknown = sorted({c for c, _ in members} - set(like.classes))
    if unknown or not members:
        what = (
            f"the class {unknown[0]!r}, which is not trained" if unknown else "no labelled picture"
        )
        raise DataError(f"{path} holds {what}: give pictures of the classes of {like.name}")
    height, width = like.pictures.shape[1:3]
    labels = np.array([like.classes.index(c) for c, _ in members], dtype=np.int64)
    names = [name for _, name in members]
    size = None if height != width else height
    pixels = _pixels(source, "held", names, (height, width), size, cache)
    return Labelled(source.path.stem, pixels, labels, like.classes)


def _source(path: Path) -> _Source:
    if path.is_file():
        names = archive.picture_names(path)
        digest = archive.fingerprint(path)
        return _Source(path, tuple(names), digest, lambda n: archive.read_pictures(path, n))
    if not path.is_dir():
        raise DataError(f"{path}: no such folder or zip; give one with a folder for each class")
    folders = [f for f in sorted([*path.glob("*/"), *path.glob("*/*/")]) if f.is_dir()]
    folders = [f for f in folders if not f.name.startswith(".")]
    files = []
    for folder in folders:
        inside = picture_files(folder)
        if not inside and not any(f.is_dir() for f in folder.iterdir()):
            raise DataError(f"{folder} holds no picture: fill the class, or take the folder out")
        files += [(file.relative_to(path).as_posix(), file.stat()) for file in inside]
    listing = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files)
    digest = hashlib.sha256(f"{path.resolve()}\n{listing}".encode()).hexdigest()
    names = [name for name, _ in files]
    return _Source(path, tuple(names), digest, lambda n: (read_image(path / f) for f in n))


Members = list[tuple[str, str]]
"""Class and name of each picture."""


def _sorted_out(path: Path, names: Sequence[str]) -> tuple[Mapping[str, Members], tuple[str, ...]]:
    """Which pictures are for training and which for the test, and all classes."""
    parts: dict[str, Members] = {"train": [], "test": []}
    lone: Members = []
    for name in names:
        folders = name.split("/")[:-1]
        part = next((p for p, words in PARTS.items() if folders[:-1] and
                     folders[-2].lower() in words), None)  # fmt: skip
        if part is not None:
            parts[part].append((folders[-1], name))
        elif folders:
            lone.append((folders[-1], name))
    if not parts["train"]:
        kept_out = {w for words in PARTS.values() for w in words}
        lone = [(c, n) for c, n in lone if c.lower() not in kept_out]
        parts["train"], parts["test"] = _split(lone) if not parts["test"] else (lone, parts["test"])
    if not parts["train"]:
        raise DataError(
            f"{path} holds no labelled picture: put the pictures of each class into a folder of "
            "its name (CLASS/*.jpg, or train/CLASS and test/CLASS)"
        )
    classes = tuple(sorted({c for c, _ in parts["train"]}))
    if len(classes) < 2:
        raise DataError(f"{path} has the one class {classes[0]!r}: a classifier needs two or more")
    unknown = sorted({c for c, _ in parts["test"]} - set(classes))
    if unknown:
        raise DataError(
            f"{path}: the test part has the class {unknown[0]!r}, of which there is no picture to "
            "train on: add some, or take it out"
        )
    if not parts["test"]:
        parts["train"], parts["test"] = _split(parts["train"])
    return parts, classes


def _split(members: Members) -> tuple[Members, Members]:
    """Each fifth picture of a class, for the test; a class of one picture stays in training."""
    train: Members = []
    test: Members = []
    for wanted in sorted({c for c, _ in members}):
        of_class = [m for m in members if m[0] == wanted]
        held = of_class[HELD_OUT - 1 :: HELD_OUT] or of_class[1:][-1:]
        test += held
        train += [m for m in of_class if m not in set(held)]
    return train, test


def _shape(source: _Source, parts: Mapping[str, Members], size: int | None) -> tuple[int, int]:
    if size is not None:
        if size < 1:
            raise DataError(f"pictures of {size} pixels hold nothing: give a size of 1 or more")
        return size, size
    first = next(iter(source.read([parts["train"][0][1]])))
    return first.shape[0], first.shape[1]


def _pixels(
    source: _Source, part: str, names: Sequence[str], shape: tuple[int, int], size: int | None,
    cache: Path | None,
) -> NDArray[np.uint8]:  # fmt: skip
    """All pictures of a part in one array, decoded now or before."""

    def fill(pixels: NDArray[np.uint8]) -> None:
        for number, picture in enumerate(source.read(names)):
            right = picture if size is None else fitted(picture, size)
            if right.shape[:2] != shape:
                raise DataError(
                    f"{source.path / names[number]} is {right.shape[1]}x{right.shape[0]} and the "
                    f"first picture {shape[1]}x{shape[0]}: give a size for all (--set data.size=N)"
                )
            pixels[number] = right

    whole = (len(names), *shape, 3)
    if cache is None and int(np.prod(whole)) <= SMALL and source.path.is_dir():
        pixels = np.zeros(whole, dtype=np.uint8)
        fill(pixels)
        return pixels
    listed = "\n".join(names)
    said = f"{source.digest}|{part}|{whole}|{listed}"
    name = f"{source.path.stem}-{part}-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    return kept(cache, name, whole, fill)


def fitted(picture: Picture, size: int) -> Picture:
    """The middle square of a picture once its short side is `size`. Shapes: (size, size, 3)."""
    height, width = picture.shape[:2]
    short = min(height, width)
    if short != size:
        wanted = (max(size, round(height * size / short)), max(size, round(width * size / short)))
        picture = imresize(picture, wanted)
    top, left = ((side - size) // 2 for side in picture.shape[:2])
    return picture[top : top + size, left : left + size]
