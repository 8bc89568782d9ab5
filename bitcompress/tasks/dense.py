"""Pictures as a model takes them, and what it must give of every pixel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bitcompress.data.augment import Pictures
from bitcompress.errors import ShapeError
from bitcompress.tasks.base import main_tensor


def planes(pictures: Pictures, image_range: float) -> Tensor:
    """Pixels as a model takes them. Shapes: (N, H, W, 3) uint8 to (N, 3, H, W) float32."""
    return (
        torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
        .float()
        .mul_(image_range / 255)
    )


def checked(output: object, picture: Tensor, what: str) -> Tensor:
    """The (N, C, H, W) that a model gave of a picture. Raises: ShapeError for another size."""
    made = main_tensor(output)
    if made.dim() != 4 or made.shape[0] != picture.shape[0] or made.shape[2:] != picture.shape[2:]:
        raise ShapeError(
            f"the model made {tuple(made.shape)} of {tuple(picture.shape)}: {what} of the "
            "picture's size are expected, (N, C, H, W)"
        )
    return made
