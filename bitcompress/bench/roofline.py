"""The picture of `bench kernels`: cases under the roofs of the machine, and beside the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bitcompress.bench.tables import TITLES, best_rows, counted
from bitcompress.measure.page import GREY, INK, Page

LEVELS = ("#bdbdbd", "#7fb3d5", "#e08214", "#b2182b", "#5e3c99", "#1b7837")
"""Colours of levels, from plainest to best."""
MARKS = {"conv2d": "o", "linear": "s", "qk": "^", "av": "v", "attention": "D"}
OTHERS = {
    "torch_fp32": "#2a6fbb", "ort_fp32": "#67a9cf", "ort_int8": "#b2182b", "torch_bf16": "#1b7837",
}  # fmt: skip
ROOF, SLOPE = "#444444", "#8a8a8a"
PRIMITIVES = {
    "fma": "fp32 FMA", "int8": "int8", "int8fast": "small codes", "popcount": "popcount",
    "lookup": "2-bit lookup", "lookup1": "1-bit lookup",
}  # fmt: skip
LEFT, WIDE, TOP, ROW = 80, 720, 92, 17
NAMES = 330
"""Pixels for the names of the cases."""


def sheet(report: Mapping[str, Any]) -> bytes:
    """A PNG. Raises: Unavailable without matplotlib."""
    rows = best_rows(report)
    tall = max(560, ROW * len(rows))
    page = Page(LEFT + WIDE + NAMES + 560, TOP + tall + 96)
    machine = report["machine"]
    page.text(30, 28, f"Kernels on {machine['processor']}, {counted(machine['threads'])}", 14,
              weight="bold")  # fmt: skip
    page.text(30, 54, f"best of up to {report['repeats']}, {report['date']}; roofs measured in the "
              "same run", 9, GREY)  # fmt: skip
    _roofs(page, report, min(tall, 700))
    if rows:
        _others(page, rows, LEFT + WIDE + NAMES, tall)
    return page.png()


def _roofs(page: Page, report: Mapping[str, Any], tall: int) -> None:
    axis = page.axes(LEFT, TOP, WIDE - 70, tall)
    timed = [row for row in report["rows"] if row["us"] is not None and row["gops"]]
    near = [row["ops_per_byte"] for row in timed] or [1.0]
    low, high = min(0.5, *near) / 2, max(64.0, *near) * 25
    gops = report["peaks"]["gops"]
    ceiling = max(gops.values())
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(low, high)
    axis.set_ylim(min([row["gops"] for row in timed] or [1.0]) / 2, ceiling * 1.7)
    for place, rate in report["peaks"]["read_gb_s"].items():
        # A roof of memory ends where it meets the highest roof.
        end = min(high, ceiling / rate)
        axis.plot([low, end], [low * rate, end * rate], color=SLOPE, linewidth=0.9, linestyle="--")
        _along(axis, low * 1.4, low * 1.4 * rate, f"{place}: {rate:.0f} GB/s", tall)
    for height, text in _flat(gops):
        axis.plot([max(low, height / max(report["peaks"]["read_gb_s"].values())), high],
                  [height, height], color=ROOF, linewidth=1.1)  # fmt: skip
        axis.text(high * 0.94, height * 1.03, text, fontsize=7.2, color=INK, ha="right",
                  va="bottom")  # fmt: skip
    _points(axis, timed, report["levels"])
    axis.set_xlabel("operations per byte that goes in or comes out", fontsize=9, color=INK)
    axis.set_ylabel("Gop/s (2 x multiply-accumulates)", fontsize=9, color=INK)
    _plain(axis)
    if timed:
        axis.legend(fontsize=7.5, frameon=True, framealpha=0.9, edgecolor="none", loc="lower right",
                ncol=2)  # fmt: skip


def _flat(gops: Mapping[str, float]) -> list[tuple[float, str]]:
    """The highest roof of each primitive, AMX by itself; roofs that coincide share a label."""
    best: dict[str, tuple[float, str]] = {}
    for name, height in gops.items():
        primitive, instructions = name.split("/")
        kind = name if instructions == "amx" else primitive
        label = f"{PRIMITIVES[primitive]} {instructions}"
        best[kind] = max(best.get(kind, (0.0, "")), (height, label))
    if best.get("int8fast", (0.0, ""))[0] < best.get("int8", (0.0, ""))[0]:
        best.pop("int8fast", None)
    merged: list[tuple[float, str]] = []
    for height, text in sorted(best.values()):
        label = f"{text} {height:,.0f}"
        if merged and height < merged[-1][0] * 1.12:
            label = f"{merged[-1][1]}; {label}"
            merged.pop()
        merged.append((height, label))
    return merged


def _along(axis: Any, x: float, y: float, text: str, tall: int) -> None:
    """A label that follows a slope of one decade a decade."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    rise, run = tall / math.log10(top / bottom), (WIDE - 70) / math.log10(right / left)
    axis.text(x, y * 1.12, text, fontsize=7, color=GREY, rotation_mode="anchor",
              rotation=math.degrees(math.atan2(rise, run)))  # fmt: skip


def _points(axis: Any, rows: Sequence[Mapping[str, Any]], levels: Sequence[str]) -> None:
    for number, level in enumerate(levels):
        colour = LEVELS[number % len(LEVELS)]
        mine = [row for row in rows if row["level"] == level]
        for row in mine:
            mark = MARKS.get(row["op"].split("_")[0], "x")
            axis.plot(row["ops_per_byte"], row["gops"], mark, color=colour, markersize=5,
                      markeredgecolor="white", markeredgewidth=0.5)  # fmt: skip
        if mine:
            axis.plot([], [], "o", color=colour, label=level)
    for op in dict.fromkeys(row["op"].split("_")[0] for row in rows):
        axis.plot([], [], MARKS.get(op, "x"), color=GREY, label=op, fillstyle="none")


def _others(page: Page, rows: Sequence[Mapping[str, Any]], left: int, tall: int) -> None:
    """A line a case: how many times faster than each of the others."""
    axis = page.axes(left, TOP, 510, ROW * len(rows))
    for place, row in enumerate(rows):
        known = {c: row["ratio"][c] for c in OTHERS if row["ratio"][c] is not None}
        if known:
            axis.plot([min(known.values()), max(known.values())], [place, place], color="#d0d0d0",
                      linewidth=1.4, zorder=1)  # fmt: skip
        for column, ratio in known.items():
            axis.plot(ratio, place, "o", color=OTHERS[column], markersize=5, zorder=2)
    axis.axvline(1, color=INK, linewidth=1.1, zorder=0)
    axis.set_xscale("log")
    ratios = [r for row in rows for r in row["ratio"].values() if r is not None] or [1.0]
    axis.set_xlim(min(0.5, *ratios) / 1.2, max(2.0, *ratios) * 1.2)
    low, high = axis.get_xlim()
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= t <= high]
    axis.set_xticks(ticks, [f"{t:g}x" for t in ticks])
    axis.set_xticks([], minor=True)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    names = [
        f"{row['op']} W{row['weight_bits']}A{row['act_bits']} {row['shape']} ({row['level']})"
        for row in rows
    ]
    axis.set_yticks(range(len(rows)), names)
    _plain(axis)
    axis.tick_params(axis="y", labelsize=7.4, length=0, colors=INK)
    axis.grid(axis="x", which="major", color="#e4e4e4", linewidth=0.7)
    axis.set_xlabel("times faster than ... (left of 1: slower), fastest level of each case",
                    fontsize=9, color=INK)  # fmt: skip
    x = left
    for column, colour in OTHERS.items():
        page.text(x, TOP - 18, "\N{BLACK CIRCLE}", 9, colour)
        page.text(x + 14, TOP - 18, TITLES[column], 8.5)
        x += 118


def _plain(axis: Any) -> None:
    axis.tick_params(labelsize=8, colors=GREY)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axis.spines[side].set_color("#999999")
