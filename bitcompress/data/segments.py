"""Pictures with a class for each pixel: folders of both, as of CamVid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitcompress.data.beside import LABEL_WORDS, Pairs, paired
from bitcompress.data.images import Picture, read_image
from bitcompress.data.labels import (
    CAMVID,
    LABEL_MAPS,
    VOID,
    LabelMap,
    LabelPixels,
    read_label_map,
    read_labels,
)
from bitcompress.data.maps import Maps
from bitcompress.errors import DataError, UsageError

HELD_OUT = 5
"""Without a test part each fifth picture is kept for it."""


def open_segments(
    path: Path, labels: str | LabelMap | None = None
) -> tuple[Maps[np.uint8], Maps[np.uint8], LabelMap]:
    """The training and the test part of a folder of pictures and label pictures.

    Classes are those of the map `labels` (or so named), of the file classes.txt, of CamVid where
    the folders are called as its are (train, trainannot); else the numbers that occur.
    Raises: DataError where there is no labelled picture, a pair has two sizes, all is void, or a
        label is no class; UsageError for a map that is none.
    """
    path = Path(path)
    train, test = paired(path, LABEL_WORDS, HELD_OUT)
    classes = _classes(path, labels, [*train, *test])
    parts = [_maps(f"{path.name} {n}", p, classes) for n, p in (("train", train), ("test", test))]
    for part in parts:
        if not any((part.pair(i)[1] != VOID).any() for i in range(len(part))):
            raise DataError(f"{part.name}: no pixel has a class, all are void; label some")
    return parts[0], parts[1], classes


def _classes(path: Path, labels: str | LabelMap | None, pairs: Pairs) -> LabelMap:
    if isinstance(labels, LabelMap):
        return labels
    if labels is not None:
        if labels not in LABEL_MAPS:
            known = ", ".join(sorted(LABEL_MAPS))
            raise UsageError(f"there is no label map {labels!r}; known are {known}")
        return LABEL_MAPS[labels]
    if (path / "classes.txt").is_file():
        return read_label_map(path / "classes.txt")
    if (path / "trainannot").is_dir():
        return CAMVID
    largest = 0
    for _, file in pairs:
        numbers = read_labels(file, None)
        counted = numbers[numbers != VOID]
        largest = max(largest, int(counted.max()) if counted.size else 0)
    return LabelMap(tuple((f"class {n}", None) for n in range(largest + 1)))


def _maps(name: str, pairs: Pairs, classes: LabelMap) -> Maps[np.uint8]:
    def read(index: int) -> tuple[Picture, LabelPixels]:
        file, told = pairs[index]
        picture, labels = read_image(file), read_labels(told, classes)
        if picture.shape[:2] != labels.shape:
            raise DataError(
                f"{file} is {picture.shape[1]}x{picture.shape[0]} and its labels "
                f"{labels.shape[1]}x{labels.shape[0]}: give labels of the picture's size"
            )
        return picture, labels

    maps = Maps(name, tuple(file.stem for file, _ in pairs), read)
    for index in range(len(maps)):  # what does not fit is named now, not at step 1000
        maps.pair(index)
    return maps
