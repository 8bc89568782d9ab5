"""The picture of `bench model --growth`: time and memory against the pixels of the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitcompress.bench.tables import counted
from bitcompress.measure.page import GREY, INK, Page

COLOURS = {"packed": "#2a6fbb", "float": "#e08214"}
PANELS = {"ms": "time of one run (ms)", "rss_mb": "memory of the process (MB)"}
LEFT, TOP, WIDE, TALL, GAP = 84, 110, 500, 420, 100


def draw_growth(report: Mapping[str, Any]) -> bytes:
    """A PNG. Raises: Unavailable without matplotlib."""
    page = Page(2 * (LEFT + WIDE) + GAP, TOP + TALL + 90)
    row, machine = report["rows"][0], report["machine"]
    page.text(30, 30, f"{row['model']} W{row['weight_bits']}A{row['act_bits']}: growth with the "
              "picture", 14, weight="bold")  # fmt: skip
    page.text(30, 58, f"{machine['processor']}, {counted(machine['threads'])}, {report['date']}; "
              "float in torch; each in a process of its own; dashed: growth in proportion",
              9, GREY)  # fmt: skip
    for number, (key, title) in enumerate(PANELS.items()):
        axis = page.axes(LEFT + number * (WIDE + GAP), TOP, WIDE, TALL)
        _panel(axis, report["growth"], key, title)
    return page.png()


def _panel(axis: Any, grown: Mapping[str, Any], key: str, title: str) -> None:
    in_proportion = key == "ms"  # memory has the program itself as its floor
    if in_proportion:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
    sides: dict[int, int] = {}
    for which, colour in COLOURS.items():
        rows = grown[which]
        if not rows:
            continue
        pixels, values = [row["pixels"] for row in rows], [row[key] for row in rows]
        sides |= {row["pixels"]: row["side"] for row in rows}
        axis.plot(pixels, values, "o-", color=colour, linewidth=1.8, markersize=5, label=which)
        floor = 0.0 if in_proportion else values[0] - values[-1] * pixels[0] / pixels[-1]
        slope = (values[-1] - floor) / pixels[-1]
        axis.plot(
            pixels,
            [floor + slope * p for p in pixels],
            color=colour,
            linewidth=0.9,
            linestyle="--",
            alpha=0.7,
        )
        axis.annotate(_short(values[-1]), (pixels[-1], values[-1]), textcoords="offset points",
                      xytext=(0, 8), ha="center", fontsize=8, color=colour)  # fmt: skip
    seen = [row[key] for which in COLOURS for row in grown[which]] or [1.0]
    axis.set_ylim(*((min(seen) / 2, max(seen) * 2) if in_proportion else (0, max(seen) * 1.15)))
    # On a linear axis the small sizes lie too close together to be named.
    named = sorted(p for p in sides if in_proportion or p >= max(sides) / 20)
    axis.set_xticks(named, [f"{sides[p]}x{sides[p]}" for p in named])
    axis.set_xticks([], minor=True)
    axis.set_title(title, fontsize=10, color=INK, loc="left")
    axis.set_xlabel("pixels of the input", fontsize=9, color=INK)
    axis.tick_params(labelsize=8, colors=GREY)
    axis.grid(which="major", color="#e4e4e4", linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    if sides:
        axis.legend(fontsize=9, frameon=False, loc="upper left")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
