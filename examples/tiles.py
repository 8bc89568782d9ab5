"""What tiles cost: a model's picture made of tiles beside the one that it makes of the whole.

    python examples/tiles.py DAT_light_x2.pth out/ pictures/*.png

For the float model and the packed one, PSNR over all pixels of the enlarged picture. A model that
looks at all of its input at once (attention over channels, pooling to a fixed size) sees less of it
in a tile.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import bitcompress
from bitcompress.data.images import read_image
from bitcompress.models.load import load_model
from bitcompress.parity import parity
from bitcompress.tiles import run_picture


def apart(model: nn.Module, picture: NDArray[np.uint8], scale: int, image_range: float) -> float:
    """PSNR between the picture made of tiles and the picture made whole."""
    run = partial(run_picture, model, picture, scale=scale, image_range=image_range)
    tiled, whole = (torch.from_numpy(run(limit=n)).double() for n in (0, picture.size))
    return parity(tiled, whole, 255).psnr_db


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("packed", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--side", type=int, default=400, help="Larger pictures are cut to this.")
    arguments = parser.parse_args()
    packed = bitcompress.load(arguments.packed)
    source = packed.source
    models = {"float": load_model(arguments.checkpoint).model.eval(), "packed": packed.model}
    for path in arguments.pictures:
        picture = read_image(path)[: arguments.side, : arguments.side]
        figures = {
            name: apart(model, picture, source.scale or 1, source.image_range)
            for name, model in models.items()
        }
        print(path.name, {name: round(value, 1) for name, value in figures.items()}, flush=True)


if __name__ == "__main__":
    main()
