"""Pictures with a map beside each (labels, depths): which folders hold them, told by names alone.

Understood are train with trainannot (also train_labels, train_depth, ...), images with labels,
images/train with labels/train, train/images with train/labels; the same for test and val. A map
has the name of its picture, perhaps with an ending such as _L or _depth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bitcompress.data.labelled import PARTS
from bitcompress.data.layout import picture_files
from bitcompress.errors import DataError

LABEL_WORDS = ("labels", "label", "annot", "annotations", "annotation", "masks", "mask", "gt")
DEPTH_WORDS = ("depth", "depths", "depth_maps")
PICTURE_WORDS = ("images", "image", "img", "pictures", "rgb")
ENDINGS = re.compile(r"_(?:l|labels?|masks?|gt|depths?|annot)$", re.IGNORECASE)

Pairs = list[tuple[Path, Path]]
"""Picture, map."""


def has_maps(path: Path, words: Sequence[str]) -> bool:
    """Whether a folder holds pictures with maps that are called by one of the words."""
    return path.is_dir() and bool(_folders(path, words))


def paired(
    path: Path, words: Sequence[str], every: int, suffixes: Sequence[str] = ()
) -> tuple[Pairs, Pairs]:
    """The pairs to train on and those to measure on (each `every`-th if there is no such part).

    `suffixes` are endings of maps that are no pictures.
    Raises: DataError if there is no such pair, or a picture has no map.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; give one with pictures and their {words[0]} maps")
    found = {
        part: _pairs(pictures, maps, suffixes)
        for part, (pictures, maps) in _folders(path, words).items()
    }
    train, test = found.get("train", found.get("all", [])), found.get("test", [])
    if not train:
        raise DataError(
            f"{path} holds no pictures with maps: give folders like train and train_{words[0]}, or "
            f"images and {words[0]}"
        )
    if not test:
        test = train[every - 1 :: every] or train[-1:]
        train = [pair for pair in train if pair not in test]
    if not train:
        raise DataError(f"{path} holds one picture: give some to train on and some to measure on")
    return train, test


def _folders(path: Path, words: Sequence[str]) -> Mapping[str, tuple[Path, Path]]:
    """Folder of pictures and of maps, for each part that there is; "all" if parts are not told."""
    inside = {f.name.lower(): f for f in sorted(path.iterdir()) if f.is_dir()}
    found: dict[str, tuple[Path, Path]] = {}
    for part, names in PARTS.items():
        for name in (n for n in names if n in inside and part not in found):
            beside = [inside[n] for w in words for n in (name + w, f"{name}_{w}") if n in inside]
            within = _both(inside[name], words)
            if beside:
                found[part] = inside[name], beside[0]
            elif within is not None:
                found[part] = within
    both = _both(path, words)
    if found or both is None:
        return found
    for part, names in PARTS.items():
        for name in names:
            if (both[0] / name).is_dir() and (both[1] / name).is_dir() and part not in found:
                found[part] = both[0] / name, both[1] / name
    return found or {"all": both}


def _both(path: Path, words: Sequence[str]) -> tuple[Path, Path] | None:
    """The folders images and labels (or so) inside of a folder."""
    inside = {f.name.lower(): f for f in sorted(path.iterdir()) if f.is_dir()}
    pictures = [inside[w] for w in PICTURE_WORDS if w in inside]
    maps = [inside[w] for w in words if w in inside]
    return (pictures[0], maps[0]) if pictures and maps else None


def _pairs(pictures: Path, maps: Path, suffixes: Sequence[str]) -> Pairs:
    others = [f for f in sorted(maps.iterdir()) if f.suffix.lower() in suffixes]
    by_stem = {f.stem: f for f in [*picture_files(maps), *others]}
    by_stem |= {ENDINGS.sub("", stem): f for stem, f in list(by_stem.items())}
    files = picture_files(pictures)
    for file in files:
        if file.stem not in by_stem:
            raise DataError(
                f"{file} has no map of its name in {maps.name}: add it, or take the picture out"
            )
    return [(file, by_stem[file.stem]) for file in files]
