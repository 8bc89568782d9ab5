"""What segmentation and depth share: windows of pictures and maps as batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitcompress.data.augment import Pictures
from bitcompress.data.draws import Indices
from bitcompress.data.maps import Maps, Windows
from bitcompress.errors import ShapeError, UsageError
from bitcompress.tasks.base import Batch, only_tensor, shared_out
from bitcompress.train import BatchSource


def planes(pictures: Pictures, image_range: float) -> Tensor:
    """Pixels as a model takes them. Shapes: (N, H, W, 3) uint8 to (N, 3, H, W) float32."""
    return (
        torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
        .float()
        .mul_(image_range / 255)
    )


def window_batches(
    maps: Maps[Any], cut: Windows, image_range: float, batch: int, seed: int, micro: int | None,
    convert: Callable[[NDArray[Any]], Tensor],
) -> BatchSource:  # fmt: skip
    """Batches {"picture", "map"} of random windows; `convert` makes the tensor of the maps."""

    def make(step: int, places: Indices) -> Batch:
        pictures, told = maps.batch(seed, step, batch, places, cut)
        return {"picture": planes(pictures, image_range), "map": convert(told)}

    return shared_out(batch, micro, make)


def crop_of(value: Any) -> tuple[int, int]:
    """A crop as height and width, given as both or as one number. Raises: UsageError."""
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or not all(isinstance(s, int) and s > 0 for s in sides):
        raise UsageError(
            f"the crop {value} is no height and width: give one or two numbers above 0"
        )
    return sides[0], sides[1]


def checked(output: object, picture: Tensor, what: str) -> Tensor:
    """The (N, C, H, W) that a model gave of a picture. Raises: ShapeError for another size."""
    made = only_tensor(output)
    if made.dim() != 4 or made.shape[0] != picture.shape[0] or made.shape[2:] != picture.shape[2:]:
        raise ShapeError(
            f"the model made {tuple(made.shape)} of {tuple(picture.shape)}: {what} of the "
            "picture's size are expected, (N, C, H, W)"
        )
    return made
