"""What the tests of tasks share: small labelled folders and photographs, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitcompress.data.images import write_image
from bitcompress.data.synthetic import synthetic_pictures


@pytest.fixture
def classes_folder(tmp_path: Path) -> Path:
    """Three classes of 8 x 8 pictures that differ in colour, 10 to train and 4 to test each."""
    random = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for number, name in enumerate(("ant", "bee", "cat")):
            folder = tmp_path / "labelled" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture = random.integers(0, 80, (8, 8, 3), dtype=np.uint8)
                picture[..., number] += 150
                write_image(folder / f"{i}.png", picture)
    return tmp_path / "labelled"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photographs, of odd sizes too."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in enumerate(synthetic_pictures(5, 41, seed=1)):
        write_image(folder / f"{number}.png", picture[: 41 - number])
    return folder
