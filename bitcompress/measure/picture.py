"""The pictures of a report: crops side by side, what each layer's grids cost, and sensitivities.

Everything is placed in whole pixels, so that a pixel of a model's output is a square of the sheet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitcompress.measure.evaluate import Shown
from bitcompress.measure.layer_bars import draw_bars
from bitcompress.measure.page import GREY, INK, Page

Pixels = NDArray[np.uint8]

SIDE, ZOOM = 96, 3
CELL, GAP, MARGIN = SIDE * ZOOM, 16, 30
HEAD, TITLE_ROW, CAPTION, BARS = 76, 24, 44, 470
FRAME = "#e6007e"
COLUMNS = {
    "bicubic": "bicubic_psnr_y",
    "float": "float_psnr_y",
    "packed": "packed_psnr_y",
    "ground truth": "",
}
"""Title of a column of crops, and the figure of the report that stands under it."""


def sheet(report: Mapping[str, Any], shown: Sequence[Shown]) -> bytes:
    """A PNG: a row of crops a picture with its PSNR, and below the SQNR of each layer.

    The figures are those of the report, over whole pictures; without ground truth the packed crop
    carries its fidelity to the float model.
    Raises: Unavailable without matplotlib.
    """
    columns = [
        name for name in COLUMNS if any(_pixels(picture)[name] is not None for picture in shown)
    ]
    width = 2 * MARGIN + 5 * CELL + 4 * GAP
    rows = (TITLE_ROW + len(shown) * (CELL + CAPTION)) if shown else 0
    page = Page(width, HEAD + rows + BARS)
    _head(page, report)
    scores = _scores(report)
    for number, picture in enumerate(shown):
        top = HEAD + TITLE_ROW + number * (CELL + CAPTION)
        _row(page, picture, columns, scores.get(picture.name, {}), top, titled=number == 0)
    draw_bars(page, report["layers"], top=HEAD + rows, height=BARS)
    return page.png()


def sensitivity_sheet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG: the SQNR of each layer's output at each width, in columns of at most 60 layers.

    Shapes: rows as `analyze` gives them: name, bits, sqnr_db.
    Raises: Unavailable without matplotlib.
    """
    names = list(dict.fromkeys(str(row["name"]) for row in rows))
    widths = sorted({int(row["bits"]) for row in rows}, reverse=True)
    table = np.full((max(len(names), 1), max(len(widths), 1)), np.nan)
    for row in rows:
        if row["sqnr_db"] is not None:
            place = names.index(str(row["name"])), widths.index(int(row["bits"]))
            table[place] = row["sqnr_db"]
    panels = math.ceil(len(names) / 60) or 1
    tall = math.ceil(len(names) / panels) or 1
    label = 24 + 6 * min(46, max((len(name) for name in names), default=10))
    # Few columns are drawn wider, so that the page is filled.
    cell = max(36, min(84, (640 // panels - 110 - label) // max(len(widths), 1)))
    panel = label + cell * len(widths) + 24
    page = Page(max(panels * panel + 110, 640), 110 + 16 * tall)
    page.text(24, 30, "How much each layer suffers at each width", 12, weight="bold")
    page.text(24, 54, "SQNR of its output in dB, each layer on clean inputs", 8.5, GREY)
    image = None
    for start in range(0, len(names), tall):
        part = table[start : start + tall]
        left = 24 + (start // tall) * panel + label
        axis = page.axes(left, 92, cell * len(widths), 16 * len(part))
        image = _heat(axis, part, names[start : start + tall], widths)
    if image is not None:
        bar = page.figure.colorbar(
            image, cax=page.axes(30 + panels * panel, 92, 14, max(16 * tall, 16)), extend="both"
        )
        bar.ax.tick_params(labelsize=7, length=2)
        bar.outline.set_visible(False)
    return page.png()


def _head(page: Page, report: Mapping[str, Any]) -> None:
    model = str(report.get("model", {}).get("class_name", "model")).rsplit(":", 1)[-1]
    bits, size = report.get("bits_asked"), report["size"]
    title = f"{model}, recipe {report.get('recipe', '?')}" + (f", {bits} bits" if bits else "")
    parts = [
        f"{size['float_bytes']:,} \N{RIGHTWARDS ARROW} {size['packed_bytes']:,} bytes "
        f"({size['ratio']:.2f}x smaller)"
    ]
    states = {state: count for state, count in report.get("states", {}).items() if count}
    if states:
        parts.append("layers: " + ", ".join(f"{count} {state}" for state, count in states.items()))
    speed = report.get("speed", {})
    if speed.get("ratio"):
        threads = f"{speed['threads']} thread" + ("s" if speed["threads"] != 1 else "")
        rough = " (rough)" if speed.get("rough") else ""
        parts.append(f"{speed['ratio']:.2f}x the speed of float on {threads}{rough}")
    page.text(MARGIN, 32, title, 14, weight="bold")
    page.text(MARGIN, 58, "    ".join(parts), 9.5, GREY)


def _scores(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures of the pictures of the first set, which are the ones shown."""
    for figures in report.get("quality", {}).values():
        return {row["name"]: row for row in figures.get("pictures", ())}
    return {}


def _pixels(picture: Shown) -> dict[str, Pixels | None]:
    return {
        "bicubic": picture.bicubic,
        "float": picture.float_,
        "packed": picture.packed,
        "ground truth": picture.truth,
    }


def _row(
    page: Page, picture: Shown, columns: Sequence[str], scores: Mapping[str, Any], top: int,
    *, titled: bool,
) -> None:  # fmt: skip
    """The whole picture with the place of the crop, then the crops."""
    whole = picture.truth if picture.truth is not None else picture.packed
    y, x, side = *liveliest(whole), min(SIDE, *whole.shape[:2])
    scale = CELL / max(whole.shape[:2])
    high, wide = (max(1, round(n * scale)) for n in whole.shape[:2])
    axis = page.image(MARGIN + (CELL - wide) // 2, top + (CELL - high) // 2, wide, high, whole)
    axis.add_patch(page.rectangle((x - 0.5, y - 0.5), side, FRAME))
    page.text(MARGIN + CELL / 2, top + CELL + 16, picture.name, 9, ha="center")
    for number, name in enumerate(columns, 1):
        left = MARGIN + number * (CELL + GAP)
        if titled:
            page.text(left + CELL / 2, top - 14, name, 10, weight="bold", ha="center")
        pixels = _pixels(picture)[name]
        if pixels is None:
            page.text(left + CELL / 2, top + CELL / 2, f"no {name}", 9, GREY, ha="center")
            continue
        crop = pixels[y : y + side, x : x + side]
        zoomed = [round(n * CELL / side) for n in crop.shape[:2]]
        page.image(left, top, zoomed[1], zoomed[0], crop, sharp=True)
        page.text(left + CELL / 2, top + CELL + 16, _score(name, scores), 9.5, ha="center")


def _score(name: str, scores: Mapping[str, Any]) -> str:
    value = scores.get(COLUMNS[name])
    if value is None:
        fidelity = scores.get("fidelity_psnr_y")
        if name == "packed" and fidelity is not None:
            return f"{_decibels(fidelity)} to float"
        return ""
    text = _decibels(value)
    full = scores.get("float_psnr_y")
    if name == "packed" and full is not None and math.isfinite(full - value):
        text += f"  ({value - full:+.2f})".replace("-", "\N{MINUS SIGN}")
    return text


def _decibels(value: float) -> str:
    return f"{value:.2f} dB" if math.isfinite(value) else "identical"


def liveliest(pixels: Pixels) -> tuple[int, int]:
    """The corner of the crop with the most detail: where a difference would show.

    Source: mean absolute step between neighbours of the grey picture, on a lattice of 16 pixels.
    """
    grey = pixels.astype(np.float32).mean(2)
    step = np.zeros_like(grey, dtype=np.float64)
    step[:, 1:] += np.abs(np.diff(grey, axis=1))
    step[1:] += np.abs(np.diff(grey, axis=0))
    total = np.pad(step, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    height, width = (max(0, n - SIDE) for n in grey.shape)
    tops, lefts = np.arange(0, height + 1, 16), np.arange(0, width + 1, 16)
    bottoms = np.minimum(tops + SIDE, grey.shape[0])
    rights = np.minimum(lefts + SIDE, grey.shape[1])
    inside = (
        total[np.ix_(bottoms, rights)] - total[np.ix_(tops, rights)]
        - total[np.ix_(bottoms, lefts)] + total[np.ix_(tops, lefts)]
    )  # fmt: skip
    best = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return int(tops[best[0]]), int(lefts[best[1]])


def _heat(axis: Any, part: NDArray[np.float64], names: Sequence[str], widths: Sequence[int]) -> Any:
    """One panel of the sensitivity sheet."""
    shown = np.where(np.isposinf(part), 99.0, part)
    # Red to blue and not to green: told apart by all eyes.
    image = axis.imshow(shown, aspect="auto", cmap="RdYlBu", vmin=0, vmax=45)
    axis.set_facecolor("#e8e8e8")
    for (row, column), value in np.ndenumerate(part):
        if not np.isnan(value):
            text = "exact" if np.isposinf(value) else f"{round(value)}"
            ink = "white" if value < 6 or value > 39 else INK
            axis.text(column, row, text, ha="center", va="center", fontsize=6.5, color=ink)
    axis.set_xticks(range(len(widths)), [f"{w} bit" for w in widths], fontsize=7)
    axis.set_yticks(range(len(names)), [shortened(name, 46) for name in names], fontsize=6.5)
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.set_xticks(np.arange(len(widths) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1)
    axis.tick_params(which="minor", length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image


def shortened(name: str, most: int) -> str:
    """The name, its middle left out where it is longer than `most`."""
    if len(name) <= most:
        return name
    head = (most - 1) // 3
    return f"{name[:head]}\N{HORIZONTAL ELLIPSIS}{name[len(name) - (most - 1 - head) :]}"
