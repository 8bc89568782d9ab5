"""The metric of a file beside that of its packed model, on a photograph that comes with us.

Both enlarge the same bicubic reduction; what differs is the runtime alone, so both must be as far
from the photograph.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitcompress.artifact import Source
from bitcompress.backends.capture import Captured, run_once
from bitcompress.backends.gate import Opened
from bitcompress.data.calibration import packaged_calibration
from bitcompress.data.images import read_image
from bitcompress.data.resize import imresize
from bitcompress.errors import GateError
from bitcompress.graph.intercept import Rewritten
from bitcompress.measure.quality import psnr_y

SIDE = 64
"""Pixels of the small picture, or the next size that the file takes."""
MOST_DB = 0.01
"""How far the metric of the file may be from that of the packed model."""


def metric_of(
    model: Rewritten, opened: Opened, captured: Captured, source: Source | None
) -> dict[str, Any] | None:
    """PSNR on Y of the packed model and of the file against the photograph.

    Returns: None for models that enlarge no pictures.
    Raises: GateError where they are too far apart, or one of them has no number.
    """
    if source is None or source.scale is None or len(captured.inputs) != 1:
        return None
    ((name, example),) = captured.inputs.items()
    if example.dim() != 4 or example.shape[1] != 3:
        return None
    photo = _photograph(_side(captured, example), source.scale)
    small = torch.from_numpy(imresize(photo, 1 / source.scale)).permute(2, 0, 1)[None]
    x = small.float().div(255).mul(source.image_range)
    named = {name: x.expand(len(example), -1, -1, -1).contiguous()}
    with torch.no_grad():
        packed = run_once(model, named)
    file = torch.from_numpy(opened.run(named)[opened.outputs[0]])
    one, two = (
        psnr_y(_pixels(made[0], source.image_range), photo, source.scale) for made in (packed, file)
    )
    apart = 0.0 if one == two else abs(one - two)
    return {"metric": "psnr_y", "packed_db": one, "file_db": two, "apart_db": apart}


def check_metric(row: dict[str, Any] | None) -> None:
    """Refuse a file whose metric is another. Raises: GateError."""
    if row is not None and not row["apart_db"] <= MOST_DB:
        raise GateError(
            f"metric: {row['file_db']:.3f} dB on a photograph, where the packed model has "
            f"{row['packed_db']:.3f} dB; {MOST_DB:g} dB apart are allowed"
        )


def _side(captured: Captured, example: Tensor) -> tuple[int, int]:
    """Height and width of the small picture."""
    step = captured.sizes.step
    if step == 0:
        return int(example.shape[2]), int(example.shape[3])
    return (math.ceil(SIDE / step) * step,) * 2


def _photograph(small: tuple[int, int], scale: int) -> NDArray[np.uint8]:
    """A packaged photograph, mirrored on where it is too small, cut to `scale` times the size."""
    file = min(packaged_calibration().glob("*.png"))
    pixels, (height, width) = read_image(file), (small[0] * scale, small[1] * scale)
    more = [
        (0, max(want - have, 0))
        for want, have in zip((height, width), pixels.shape[:2], strict=True)
    ]
    wide = np.pad(pixels, (*more, (0, 0)), mode="symmetric")
    return np.ascontiguousarray(wide[:height, :width])


def _pixels(made: Tensor, image_range: float) -> NDArray[np.float32]:
    """A picture (3, H, W) as (H, W, 3) of 0 to 255."""
    found: NDArray[np.float32] = (
        made.float().clamp(0, image_range).mul(255 / image_range).permute(1, 2, 0).numpy()
    )
    return found
