"""What the numbers and colours of label pictures mean: names of classes, and what is void.

A data set may say it in a file classes.txt, one class a line in the order of their numbers: a name,
perhaps three numbers for its colour. A class called void (or unlabelled, ignore) counts nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitcompress.data.images import MAX_PIXELS, read_image
from bitcompress.errors import DataError, Unavailable

VOID = 255
"""The number of pixels without a class, in maps that were read."""
VOID_NAMES = frozenset({"void", "unlabelled", "unlabeled", "ignore"})
Colour = tuple[int, int, int]
LabelPixels = NDArray[np.uint8]
"""(H, W): classes 0, 1, ... and VOID."""


@dataclass(frozen=True)
class LabelMap:
    """The classes in the order of the numbers in files, void ones among them."""

    entries: tuple[tuple[str, Colour | None], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that count."""
        return tuple(name for name, _ in self.entries if name.lower() not in VOID_NAMES)

    @property
    def colours(self) -> tuple[Colour, ...]:
        """A colour for each class that counts: its own, or one made of its number."""
        told = [c for name, c in self.entries if name.lower() not in VOID_NAMES]
        return tuple(c or _made_up(number) for number, c in enumerate(told))

    def table(self) -> NDArray[np.int64]:
        """The class of each number 0..255 in a file; VOID for void, -1 where it is none."""
        table = np.full(256, -1, dtype=np.int64)
        table[VOID] = VOID
        numbers = iter(range(len(self.entries)))
        for place, (name, _) in enumerate(self.entries):
            table[place] = VOID if name.lower() in VOID_NAMES else next(numbers)
        return table


CAMVID = LabelMap(
    (
        ("sky", (128, 128, 128)),
        ("building", (128, 0, 0)),
        ("pole", (192, 192, 128)),
        ("road", (128, 64, 128)),
        ("pavement", (60, 40, 222)),
        ("tree", (128, 128, 0)),
        ("sign", (192, 128, 128)),
        ("fence", (64, 64, 128)),
        ("car", (64, 0, 128)),
        ("pedestrian", (64, 64, 0)),
        ("bicyclist", (0, 128, 192)),
        ("void", (0, 0, 0)),
    )
)
"""The eleven classes of CamVid as SegNet grouped and numbered them, in its colours."""
LABEL_MAPS: dict[str, LabelMap] = {"camvid": CAMVID}


def read_label_map(path: Path) -> LabelMap:
    """The classes in a file. Raises: DataError where a line is none, or a name comes twice."""
    entries: list[tuple[str, Colour | None]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of classes: {error}") from error
    for number, line in enumerate(lines):
        words = line.split()
        if not words:
            continue
        numbers = [int(w) for w in words[1:] if w.isdecimal() and int(w) < 256]
        if len(numbers) != len(words) - 1 or len(numbers) not in (0, 3):
            raise DataError(
                f"{path}:{number + 1}: {line!r} is no class: write its name, and perhaps its "
                "colour as three numbers below 256"
            )
        colour = (numbers[0], numbers[1], numbers[2]) if numbers else None
        entries.append((words[0], colour))
    names = [name for name, _ in entries]
    if not 1 <= len(names) < VOID or len(set(names)) != len(names):
        raise DataError(f"{path} must list 1 to {VOID - 1} classes, each once")
    return LabelMap(tuple(entries))


def read_labels(path: Path, classes: LabelMap | None) -> LabelPixels:
    """The class of each pixel of a label picture; without a map numbers stay as they are.

    Grey and palette pictures hold numbers, RGB pictures colours.
    Raises: DataError for a number or colour that is no class, or colours without a map.
    """
    numbers = _numbers(path)
    if numbers is None:
        return _by_colour(path, classes)
    if classes is None:
        return numbers
    labels = classes.table()[numbers]
    if (labels < 0).any():
        wrong = int(numbers[labels < 0].max())
        raise DataError(
            f"{path} has the label {wrong}, but there are {len(classes.entries)} classes "
            f"(0 to {len(classes.entries) - 1}, {VOID} for void): name all in classes.txt"
        )
    return labels.astype(np.uint8)


def _numbers(path: Path) -> LabelPixels | None:
    """The pixels of a grey or palette picture as they are stored; None for one in colours."""
    try:
        import PIL.Image
    except ImportError as error:
        raise Unavailable(
            "pictures need Pillow, which is not installed: pip install 'bitcompress[images]'"
        ) from error
    try:
        with PIL.Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{path}: {image.width}x{image.height} pixels are too many")
            if image.mode not in ("P", "L", "1", "I", "I;16"):
                return None
            pixels = np.asarray(image, dtype=np.int64)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path} cannot be read as a label picture: {error}") from error
    if pixels.min() < 0 or pixels.max() > VOID:
        raise DataError(f"{path} has the label {int(pixels.max())}; labels go from 0 to {VOID}")
    return pixels.astype(np.uint8)


def _by_colour(path: Path, classes: LabelMap | None) -> LabelPixels:
    pixels = read_image(path).astype(np.int64)
    coded = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    table = [] if classes is None else list(zip(classes.entries, classes.table(), strict=False))
    labels = np.full(coded.shape, -1, dtype=np.int64)
    for (_, colour), number in table:
        if colour is not None:
            labels[coded == (colour[0] << 16 | colour[1] << 8 | colour[2])] = number
    if (labels < 0).any():
        row, column = np.argwhere(labels < 0)[0]
        wrong = tuple(int(v) for v in pixels[row, column])
        raise DataError(
            f"{path} has the colour {wrong}, which is no class: give a file classes.txt beside the "
            "pictures with a line 'name r g b' for each class"
        )
    return labels.astype(np.uint8)


def _made_up(number: int) -> Colour:
    """A colour of its own for each of 256 numbers, by the bits of the number (as Pascal VOC)."""
    channels = [0, 0, 0]
    rest = number + 1
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (rest >> channel & 1) << (7 - bit)
        rest >>= 3
    return channels[0], channels[1], channels[2]
