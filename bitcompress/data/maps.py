"""Pictures with a number for each pixel, and random windows of both.

Decoded pairs are kept up to CACHE_BYTES. A batch of windows is a pure function of seed and step,
and what happens at one place of it does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitcompress.data.augment import Pictures, window
from bitcompress.data.draws import Indices, drawn
from bitcompress.data.images import Picture

CACHE_BYTES = 1 << 30
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Windows:
    """How windows are cut: (height, width), range of scales, and the number outside of pictures."""

    size: tuple[int, int]
    scales: tuple[float, float] = (1.0, 1.0)
    outside: float = 0


@dataclass(frozen=True, eq=False)
class Maps(Generic[Scalar]):
    """Pictures, and a map of the same size for each; read when they are asked for."""

    name: str
    names: tuple[str, ...]
    read: Callable[[int], tuple[Picture, NDArray[Scalar]]] = field(repr=False)
    _kept: dict[int, tuple[Picture, NDArray[Scalar]]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def pair(self, index: int) -> tuple[Picture, NDArray[Scalar]]:
        """Picture and map. Shapes: (H, W, 3), (H, W)."""
        if index not in self._kept:
            found = self.read(index)
            if sum(p.nbytes + m.nbytes for p, m in self._kept.values()) > CACHE_BYTES:
                return found
            self._kept[index] = found
        return self._kept[index]

    def batch(
        self, seed: int, step: int, count: int, places: Indices, cut: Windows
    ) -> tuple[Pictures, NDArray[Scalar]]:
        """Windows at some places of the batch of a step. Shapes: (places, H, W, 3), (places, H, W).

        Raises: as `augment.window`.
        """
        chosen = drawn(seed, step, count, len(self))
        pictures, maps = [], []
        for place in places:
            picture, numbers = self.pair(int(chosen[place]))
            random = np.random.default_rng((seed, 1 << 32, step, int(place)))
            shown, told = window(
                picture, numbers, random, size=cut.size, scales=cut.scales, outside=cut.outside
            )
            pictures.append(shown)
            maps.append(told)
        return np.stack(pictures), np.stack(maps)
