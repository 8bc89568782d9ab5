"""Tables of binary models from the JSON files of their rows, with the rule for orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from bitcompress.measure.seeds import Mean, difference, order

BEGIN, END = "<!-- binary tables begin -->", "<!-- binary tables end -->"
TITLES = {
    "cifar": "CIFAR-10 (JPEG copies), ResNet-20: top-1 of 10,000 test pictures",
    "cifar-long": "CIFAR-10, the same with a longer budget (90 minutes of one core a row)",
    "sr": "Super-resolution x2, Set5 Y-PSNR in dB",
    "camvid": "CamVid, 11 classes: mIoU of the test pictures",
    "diffsr": "BI-DiffSR tiny, x2: ablation",
    "depth": "Depth of scikit-image's stereo pair: that the head works, no more",
    "speed": "Speed and counts, random weights",
}
FIRST = ("psnr_y", "psnr")
"""Figures that stand beside the metric where a row has them."""

Rows = Sequence[Mapping[str, Any]]


def write_tables(page: str, rows: Rows, names: Sequence[str]) -> str:
    """The page with its binary tables made anew; they are appended to a page that has none."""
    lines: list[str] = []
    for table, title in TITLES.items():
        mine = [row for row in rows if row["table"] == table]
        if mine:
            made = _speeds(mine) if table == "speed" else _table(mine, names)
            lines += [f"### {title}", "", *made, ""]
    if BEGIN not in page:
        page = f"{page.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n{END}{after}"


def _table(rows: Rows, names: Sequence[str]) -> list[str]:
    """A line a row, seeds put together, and below what their order is."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (_place(row["row"], names), row["seed"])):
        found.setdefault(row["row"], []).append(row)
    metric = rows[0]["metric"]
    more = [key for key in FIRST if key != metric and any(key in r["packed"] for r in rows)]
    plain = next((r["packed"] for r in rows if "bicubic_psnr_y" in r["packed"]), None)
    head = [
        "row", metric, *more, "seeds", "as trained", "flipped bits", "bytes", "smaller", "steps",
        "s a seed", "threads", "device",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    if plain is not None:
        cells = ["bicubic"] + [
            f"{plain['bicubic_psnr_y']:.2f}" if key == "psnr_y" else "" for key in (metric, *more)
        ]
        lines.append("| " + " | ".join([*cells, *[""] * (len(head) - len(cells))]) + " |")
    for seeds in found.values():
        lines.append("| " + " | ".join(_cells(seeds, metric, more)) + " |")
    return [*lines, "", *_orders(found, metric, bool(rows[0]["higher_is_better"]))]


def _cells(seeds: Rows, metric: str, more: Sequence[str]) -> list[str]:
    one = seeds[0]
    digits = 4 if Mean.of([s["packed"][metric] for s in seeds]).value < 1 else 2
    size = one.get("size") or {}
    flipped = [s["flipped_share"] for s in seeds if "flipped_share" in s]
    trained = [s["binary"][metric] for s in seeds if s.get("binary")]
    return [
        one["label"],
        *(Mean.of([s["packed"][key] for s in seeds]).text(digits if key == metric else 2)
          for key in (metric, *more)),
        ", ".join(str(s["seed"]) for s in seeds),
        Mean.of(trained).text(digits) if trained else "",
        f"{100 * max(flipped):.4f} %" if flipped else "",
        f"{size['packed_bytes']:,}" if size else "",
        f"{size['ratio']:.1f}x" if size else "",
        str(one["steps"]),
        f"{Mean.of([s['seconds'] for s in seeds]).value:.0f}",
        str(one["machine"]["threads"]),
        str(one["device"]),
    ]  # fmt: skip


def _orders(found: Mapping[str, Rows], metric: str, higher_is_better: bool) -> list[str]:
    """Which pairs of rows are apart by more than two standard errors of their paired difference."""
    lines = []
    for one, two in combinations(found, 2):
        ours = {s["seed"]: s["packed"][metric] for s in found[one]}
        theirs = {s["seed"]: s["packed"][metric] for s in found[two]}
        apart = difference(ours, theirs)
        if apart is None or apart.error is None:
            continue
        said = order(ours, theirs, higher_is_better=higher_is_better)
        names = f"`{found[one][0]['label']}` and `{found[two][0]['label']}`"
        digits = 4 if abs(apart.value) < 0.1 else 2
        verdict = "undecided" if said == "undecided" else f"the first is {said}"
        lines.append(f"- {names}: {apart.text(digits)} over {apart.count} seeds: {verdict}")
    if not lines:
        return ["One seed each: differences have no standard error, orders are not decided."]
    return ["Paired differences; within two standard errors an order is undecided:", "", *lines]


def _speeds(rows: Rows) -> list[str]:
    """Milliseconds of one forward, float and packed in turn, beside the counts of the papers."""
    head = [
        "model", "input", "threads", "float ms", "packed ms", "faster", "float bytes",
        "packed bytes", "smaller", "params as papers count", "OPs as papers count",
    ]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in sorted(rows, key=lambda row: str(row["row"])):
        speed, size = row["speed"], row["size"]
        lines.append("| " + " | ".join([
            row["label"], ", ".join("x".join(map(str, s)) for s in speed["input"]),
            str(speed["threads"]), f"{speed['float_ms']:.1f}", f"{speed['packed_ms']:.1f}",
            f"{speed['ratio']:.2f}x", f"{size['float_bytes']:,}", f"{size['packed_bytes']:,}",
            f"{size['ratio']:.1f}x",
            f"{size['paper_params'] / 1e6:.3f} M of {size['float_params'] / 1e6:.3f} M",
            f"{size['paper_ops'] / 1e9:.3f} G of {size['float_ops'] / 1e9:.3f} G",
        ]) + " |")  # fmt: skip
    return lines


def _place(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else len(names)
