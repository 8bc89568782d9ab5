"""Random crops of high-resolution pictures with the same place of the low-resolution ones.

A batch is a pure function of the seed and the step. The low-resolution picture is made of the whole
picture and then cut, so that crops have no borders that pictures do not have.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitcompress.data.augment import Pictures, turned
from bitcompress.data.draws import Indices, drawn, random_of
from bitcompress.data.folders import PictureSet
from bitcompress.data.images import Picture
from bitcompress.errors import DataError

CACHE_BYTES = 1 << 30
"""Decoded pictures are kept up to this size."""


@dataclass
class PairPatches:
    """Square crops of `size` low-resolution pixels, with their high-resolution truth."""

    pictures: PictureSet
    size: int
    scale: int
    seed: int
    augment: bool = True
    _kept: dict[int, tuple[Picture, Picture]] = field(default_factory=dict)
    _bytes: int = 0

    def batch(self, step: int, count: int, places: Indices) -> tuple[Pictures, Pictures]:
        """The crops at some places of the batch of a step; one place does not change another.

        Shapes: (places, size, size, 3), (places, scale * size, scale * size, 3) uint8.
        Raises: DataError if a picture has no ground truth or is smaller than the crop.
        """
        chosen = drawn(self.seed, step, count, len(self.pictures))
        where = random_of(self.seed, step).random((count, 2))
        forms = random_of(self.seed, step).integers(0, 8, count) if self.augment else [0] * count
        low: list[NDArray[np.uint8]] = []
        high: list[NDArray[np.uint8]] = []
        for place in places:
            small, large = self._pair(int(chosen[place]))
            top, left = (
                int(f * (side - self.size + 1))
                for f, side in zip(where[place], small.shape[:2], strict=True)
            )
            form = int(forms[place])
            for out, picture, by in ((low, small, 1), (high, large, self.scale)):
                rows = slice(top * by, (top + self.size) * by)
                crop = picture[rows, left * by : (left + self.size) * by]
                out.append(turned(crop, form % 4, form >= 4))
        return np.stack(low), np.stack(high)

    def _pair(self, index: int) -> tuple[Picture, Picture]:
        if index in self._kept:
            return self._kept[index]
        item = self.pictures.items[index]
        low, high = item.read()
        if high is None:
            raise DataError(
                f"{item.path} has no high-resolution picture to learn from: give HR photos"
            )
        if min(low.shape[:2]) < self.size:
            raise DataError(
                f"{item.path} is {high.shape[1]}x{high.shape[0]}, smaller than a crop of "
                f"{self.size * self.scale}: give larger pictures or a smaller patch "
                f"(--set data.patch={min(low.shape[:2])})"
            )
        if self._bytes < CACHE_BYTES:
            self._kept[index] = low, high
            self._bytes += low.nbytes + high.nbytes
        return low, high
