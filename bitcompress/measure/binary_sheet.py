"""The picture of a binary model's report: samples, quality, and each layer's bytes and time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitcompress.measure.page import GREY, INK, Page

Pixels = NDArray[np.uint8]
WIDTH, MARGIN, HEAD, CELL, CAPTION, CHART = 1400, 40, 84, 240, 34, 340
MOST_SAMPLES = 5
COLOURS = {"float": "#b8b8b8", "packed": "#2a6fbb"}
PAIRS = {
    "bytes of each layer": ("float_bytes", "stored_bytes"),
    "ms of each layer, in a run module by module": ("float_ms", "packed_ms"),
}


def sheet(report: Mapping[str, Any], samples: Sequence[tuple[str, Pixels]] = ()) -> bytes:
    """A PNG: the outcome as a line, pictures that the packed model made, two bars a layer.

    Raises: Unavailable without matplotlib.
    """
    shown = list(samples)[:MOST_SAMPLES]
    rows = CELL + CAPTION if shown else 0
    page = Page(WIDTH, HEAD + rows + len(PAIRS) * CHART + 20)
    page.text(MARGIN, 32, _title(report), 14, weight="bold")
    page.text(MARGIN, 60, _outcome(report), 9.5, GREY)
    for number, (name, pixels) in enumerate(shown):
        left = MARGIN + number * (CELL + 24)
        high, wide = pixels.shape[:2]
        scale = CELL / max(high, wide)
        page.image(left, HEAD, max(1, round(wide * scale)), max(1, round(high * scale)), pixels)
        page.text(left, HEAD + CELL + 14, name, 8.5)
    for number, (title, keys) in enumerate(PAIRS.items()):
        _bars(page, report["layers"], title, keys, HEAD + rows + number * CHART)
    return page.png()


def _title(report: Mapping[str, Any]) -> str:
    name = str(report.get("model", {}).get("class_name") or "model").split(":")[-1]
    return f"{name} in one bit, recipe {report['recipe']}"


def _outcome(report: Mapping[str, Any]) -> str:
    quality, size, speed = report["quality"], report["size"], report["speed"]
    metric = quality["metric"]
    parts = [
        f"{metric} {who} {quality[who][metric]:.3f}"
        for who in ("float", "binary", "packed")
        if metric in quality.get(who, {})
    ]
    parts.append(f"{size['ratio']:.1f}x fewer bytes")
    if "ratio" in speed:
        rough = " (rough)" if speed.get("rough") else ""
        parts.append(f"{speed['ratio']:.2f}x the speed of float{rough}")
    return "    ".join([*parts, f"{report['training']['steps']} steps"])


def _bars(
    page: Page, rows: Sequence[Mapping[str, Any]], title: str, keys: tuple[str, str], top: int
) -> None:
    """Two bars a layer on a logarithmic scale, float beside packed; float layers have one."""
    page.text(MARGIN, top + 16, title, 10, weight="bold")
    axis = page.axes(MARGIN + 50, top + 34, WIDTH - 2 * MARGIN - 60, CHART - 140)
    for shift, (who, key) in enumerate(zip(COLOURS, keys, strict=True)):
        here = [
            (i, row[key]) for i, row in enumerate(rows)
            if row.get(key) and (who == "float" or row["state"] == "packed")
        ]  # fmt: skip
        places = [i + 0.4 * shift - 0.2 for i, _ in here]
        axis.bar(places, [v for _, v in here], width=0.4, color=COLOURS[who], label=who)
    if any(row.get(key) for row in rows for key in keys):
        axis.set_yscale("log")
        axis.legend(fontsize=8, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    axis.set_xlim(-0.6, max(len(rows), 1) - 0.4)
    every = math.ceil(max(len(rows), 1) / 40)
    axis.set_xticks(
        range(0, len(rows), every),
        [str(row["name"])[-18:] for row in rows[::every]],
        rotation=60, ha="right", fontsize=6,
    )  # fmt: skip
    axis.tick_params(axis="y", which="both", labelsize=7, colors=INK)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
