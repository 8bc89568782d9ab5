"""Tests of scoring: figures against the metrics by hand, fidelity without truth, small sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitcompress.data.folders import open_pictures
from bitcompress.data.images import write_image
from bitcompress.data.resize import imresize
from bitcompress.errors import DataError
from bitcompress.measure.evaluate import evaluate
from bitcompress.measure.quality import psnr_y, ssim_y


class Nearest(nn.Module):
    """Repeats each pixel, and adds `shift` levels of 255."""

    def __init__(self, scale: int = 2, shift: int = 0) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        big = x.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)
        return big + self.shift / 255


def picture(height: int = 40, width: int = 48, seed: int = 0) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, 3))
    smooth = (rows * 2 + columns * 2 + seed * 10)[..., None] % 180
    return np.asarray(smooth + noise + 10, dtype=np.uint8)


def repeat(pixels: NDArray[np.uint8], scale: int = 2) -> NDArray[np.uint8]:
    big: NDArray[np.uint8] = pixels.repeat(scale, 0).repeat(scale, 1)
    return big


def test_figures_are_means_of_the_metrics_on_each_picture(tmp_path: Path) -> None:
    truths = {"a": picture(seed=1), "b": picture(44, 40, seed=2)}
    for name, pixels in truths.items():
        write_image(tmp_path / f"{name}.png", pixels)
    figures, shown = evaluate(
        Nearest(shift=9), Nearest(), open_pictures(tmp_path, scale=2), scale=2, image_range=1.0
    )
    packed, full, ssim, bicubic = [], [], [], []
    for truth in truths.values():
        low = imresize(truth, 0.5)
        moved = np.clip(repeat(low).astype(int) + 9, 0, 255).astype(np.uint8)
        packed.append(psnr_y(moved, truth, 2))
        full.append(psnr_y(repeat(low), truth, 2))
        ssim.append(ssim_y(moved, truth, 2))
        bicubic.append(psnr_y(imresize(low, 2), truth, 2))
    assert figures["packed_psnr_y"] == pytest.approx(np.mean(packed))
    assert figures["float_psnr_y"] == pytest.approx(np.mean(full))
    assert figures["packed_ssim_y"] == pytest.approx(np.mean(ssim))
    assert figures["bicubic_psnr_y"] == pytest.approx(np.mean(bicubic))
    assert figures["drop_db"] == pytest.approx(np.mean(full) - np.mean(packed))
    assert figures["kind"] == "hr" and figures["count"] == 2
    assert [row["name"] for row in figures["pictures"]] == ["a", "b"]
    assert [s.name for s in shown] == ["a", "b"]
    truth_shown = shown[0].truth
    assert truth_shown is not None and np.array_equal(truth_shown, truths["a"])


def test_low_resolution_alone_gives_fidelity_and_nothing_else(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture())
    pictures = open_pictures(tmp_path, scale=2, kind="lr")
    figures, shown = evaluate(Nearest(shift=9), Nearest(), pictures, scale=2, image_range=1.0)
    big = repeat(picture())
    moved = np.clip(big.astype(int) + 9, 0, 255).astype(np.uint8)
    assert figures["fidelity_psnr_y"] == pytest.approx(psnr_y(moved, big, 2))
    assert figures["kind"] == "lr" and shown[0].truth is None
    assert not [k for k in figures if k in ("packed_psnr_y", "float_psnr_y", "drop_db")]


def test_low_resolution_without_a_float_model_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture())
    with pytest.raises(DataError, match="--float"):
        evaluate(
            Nearest(), None, open_pictures(tmp_path, scale=2, kind="lr"), scale=2, image_range=1.0
        )


def test_without_a_float_model_there_is_no_drop(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture())
    figures, shown = evaluate(
        Nearest(), None, open_pictures(tmp_path, scale=2), scale=2, image_range=1.0
    )
    assert figures["packed_psnr_y"] > 0 and shown[0].float_ is None
    assert not {"float_psnr_y", "drop_db", "fidelity_psnr_y"} & set(figures)


def test_equal_models_lose_nothing_and_the_figures_are_json(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture())
    figures, _ = evaluate(
        Nearest(), Nearest(), open_pictures(tmp_path, scale=2), scale=2, image_range=1.0
    )
    assert figures["drop_db"] == 0 and figures["fidelity_psnr_y"] is None
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (11, 12), (15, 14)])
def test_pictures_too_small_for_borders_or_windows_are_scored(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    write_image(tmp_path / "a.png", picture(*size))
    figures, _ = evaluate(
        Nearest(shift=3), Nearest(), open_pictures(tmp_path, scale=2), scale=2, image_range=1.0
    )
    json.dumps(figures, allow_nan=False)
    assert figures["packed_psnr_y"] > 0


def test_one_small_picture_does_not_take_the_ssim_of_the_others(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture())
    write_image(tmp_path / "b.png", picture(6, 6))
    figures, _ = evaluate(
        Nearest(shift=3), Nearest(), open_pictures(tmp_path, scale=2), scale=2, image_range=1.0
    )
    rows = {row["name"]: row for row in figures["pictures"]}
    assert "packed_ssim_y" in rows["a"] and "packed_ssim_y" not in rows["b"]
    assert "packed_ssim_y" not in figures  # a mean over other pictures than the PSNR's would lie


def test_broken_pictures_are_named_and_progress_counts_the_rest(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    seen: list[tuple[str, int, int]] = []
    figures, _ = evaluate(
        Nearest(), Nearest(), open_pictures(tmp_path, scale=2), scale=2, image_range=1.0,
        progress=lambda what, done, total: seen.append((what, done, total)),
    )  # fmt: skip
    assert [name for name, _ in figures["skipped"]] == ["broken.png"] and figures["count"] == 1
    assert seen == [(f"score {tmp_path.name}", 1, 1)]


def test_models_of_0_to_255_score_alike(tmp_path: Path) -> None:
    class Wide(Nearest):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x / 255) * 255

    write_image(tmp_path / "a.png", picture())
    pictures = open_pictures(tmp_path, scale=2)
    narrow, _ = evaluate(Nearest(shift=5), None, pictures, scale=2, image_range=1.0)
    wide, _ = evaluate(Wide(shift=5), None, pictures, scale=2, image_range=255.0)
    assert narrow["packed_psnr_y"] == pytest.approx(wide["packed_psnr_y"])


def test_tiles_are_used_above_the_limit(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Watched(Nearest):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(x.shape[-1] * x.shape[-2])
            return super().forward(x)

    write_image(tmp_path / "a.png", picture(1200, 40))
    pictures = open_pictures(tmp_path, scale=2)
    whole, _ = evaluate(Watched(), None, pictures, scale=2, image_range=1.0)
    assert sizes == [600 * 20]
    tiled, _ = evaluate(Watched(), None, pictures, scale=2, image_range=1.0, limit=1000)
    assert max(sizes[1:]) < 600 * 20
    assert whole["packed_psnr_y"] == pytest.approx(tiled["packed_psnr_y"])
    assert torch.is_grad_enabled()
