"""Crops, flips and windows against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from bitcompress.data.augment import flipped, shifted, turned, window
from bitcompress.errors import ShapeError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_shifted_is_pad_and_crop() -> None:
    pictures = noise(40, 5, 6, 3)
    moved = shifted(pictures, np.random.default_rng(1), 2)
    down, right = np.random.default_rng(1).integers(0, 5, (2, 40))
    for before, after, y, x in zip(pictures, moved, down, right, strict=True):
        padded = np.pad(before, ((2, 2), (2, 2), (0, 0)))
        assert (after == padded[y : y + 5, x : x + 6]).all()
    assert (moved != pictures).any()
    assert (shifted(pictures, np.random.default_rng(1), 0) == pictures).all()


def test_flipped_mirrors_about_half() -> None:
    pictures = noise(60, 3, 4, 3)
    result = flipped(pictures, np.random.default_rng(2))
    mirrored = [(a == b[:, ::-1]).all() for a, b in zip(result, pictures, strict=True)]
    same = [(a == b).all() for a, b in zip(result, pictures, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 15 < sum(mirrored) < 45


def test_turned_has_eight_forms() -> None:
    patch = noise(4, 4, 3)
    forms = {turned(patch, t, m).tobytes() for t in range(4) for m in (False, True)}
    assert len(forms) == 8


def test_a_plain_window_is_a_crop() -> None:
    picture, label = noise(20, 30, 3), noise(20, 30)
    seen = set()
    for seed in range(20):
        random = np.random.default_rng(seed)
        shown, told = window(picture, label, random, size=(20, 30), scales=(1.0, 1.0), outside=255)
        mirrored = (told == label[:, ::-1]).all()
        assert mirrored or (told == label).all()
        assert (shown == (picture[:, ::-1] if mirrored else picture)).all()
        seen.add(bool(mirrored))
    assert seen == {True, False}


def test_a_scaled_window_is_bilinear_and_nearest() -> None:
    """A ramp is what interpolation gives back exactly; labels tell the column that they are of."""
    column = np.arange(40)
    picture = np.repeat(np.tile((4 * column).astype(np.uint8), (30, 1))[..., None], 3, axis=2)
    label = np.tile(column.astype(np.uint8), (30, 1))
    for seed in range(10):
        shown, told = window(
            picture, label, np.random.default_rng(seed), size=(8, 10), scales=(2, 2), outside=255
        )
        assert shown.shape == (8, 10, 3) and told.shape == (8, 10)
        middle = shown[0, 1:-1, 0].astype(int)
        assert set(np.abs(np.diff(middle))) <= {1, 2, 3}  # 4 a pixel, half a pixel a step
        assert (np.abs(told[0, 1:-1] * 4 - middle) <= 2).all()


def test_outside_of_a_small_picture() -> None:
    picture, label = noise(4, 6, 3), np.full((4, 6), 7, np.uint8)
    shown, told = window(
        picture, label, np.random.default_rng(0), size=(8, 6), scales=(1, 1), outside=255
    )
    assert (told == np.array([255] * 2 + [7] * 4 + [255] * 2)[:, None]).all()
    assert (shown[0] == shown[2]).all() and (shown[-1] == shown[-3]).all()
    with pytest.raises(ShapeError, match="do not belong together"):
        window(picture, label[1:], np.random.default_rng(0), size=(2, 2), scales=(1, 1), outside=0)
