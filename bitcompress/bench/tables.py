"""What was timed, as Markdown: docs/benchmarks.md holds such tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]
TITLES = {
    "torch_fp32": "torch fp32", "ort_fp32": "ORT fp32", "ort_int8": "ORT int8",
    "torch_bf16": "torch bf16",
}  # fmt: skip


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [
        "| " + " | ".join(head) + " |", "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows), "",
    ]  # fmt: skip


def times(value: float | None, digits: int = 2) -> str:
    """A ratio; n/a where there is none."""
    return "n/a" if value is None else f"{value:.{digits}f}x"


def micros(value: float) -> str:
    """Microseconds with three significant digits or all."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def counted(threads: int) -> str:
    """How many threads, in words."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def best_rows(report: Report) -> list[Mapping[str, Any]]:
    """For each case the row of its fastest level."""
    fastest: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for row in report["rows"]:
        if row["us"] is None:
            continue
        found = fastest.setdefault(key(row), row)
        if row["us"] < found["us"]:
            fastest[key(row)] = row
    return list(fastest.values())


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the rows of a case have in common."""
    return row["op"], row["weight_bits"], row["act_bits"], row["shape"]


def kernels_markdown(report: Report) -> str:
    """The report of `bench kernels` for people."""
    lines = ["# Kernels", "", *_setting(report), "", "## Fastest level", ""]
    lines += _fastest(report)
    if len(report["levels"]) > 1:
        lines += ["## Every level", "", "us, and the ratio to torch fp32 in brackets.", ""]
        lines += _levels(report)
    lines += _left_out(report)
    lines += ["## What the machine can do", "", *_peaks(report["peaks"])]
    return "\n".join(lines).rstrip() + "\n"


def _setting(report: Report) -> list[str]:
    machine, versions = report["machine"], report["versions"]
    rows = [row for row in report["rows"] if row["us"] is not None]
    loads = [row["load"] for row in rows]
    load = f"{min(loads):.1f} to {max(loads):.1f}" if loads else "n/a"
    held = f", torch held to {report['held_to']}" if report.get("held_to") else ""
    names = ("bitcompress", "torch", "onnxruntime")
    return [
        f"{machine['processor']}, {counted(machine['threads'])}{held}, load {load}, best of up to "
        f"{report['repeats']}, {report['date']}; "
        + ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
        + ".",
        "A ratio is the other's best time over ours: above 1 we are faster. `spread` is (worst - "
        "best) / median of ours. ORT int8 goes from codes to codes, channels last, in every row.",
    ]  # fmt: skip


def _fastest(report: Report) -> list[str]:
    head = ["operator", "W/A", "shape", "level", "us", "median", "spread", *TITLES.values(), "peak"]
    return table(
        head,
        (
            [
                row["op"], f"{row['weight_bits']}/{row['act_bits']}", row["shape"], row["level"],
                micros(row["us"]), micros(row["median_us"]), f"{100 * row['spread']:.0f} %",
                *(times(row["ratio"][column]) for column in TITLES),
                f"{100 * row['peak_fraction']:.0f} % of {row['peak']}",
            ]
            for row in best_rows(report)
        ),
    )  # fmt: skip


def _levels(report: Report) -> list[str]:
    cells: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in report["rows"]:
        if row["us"] is not None:
            ratio = times(row["ratio"]["torch_fp32"])
            cells.setdefault(key(row), {})[row["level"]] = f"{micros(row['us'])} ({ratio})"
    return table(
        ["operator", "W/A", "shape", *report["levels"]],
        (
            [op, f"{w}/{a}", shape, *(known.get(level, "") for level in report["levels"])]
            for (op, w, a, shape), known in cells.items()
        ),
    )


def _left_out(report: Report) -> list[str]:
    """Operators and columns that are n/a, with reasons."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in report["rows"]:
        for what, reason in row.get("absent", {}).items():
            name = row["op"] if what == "us" else f"{TITLES[what]} of {row['op']}"
            reasons.setdefault((name, reason), []).append(row["shape"])
    if not reasons:
        return []
    lines = [f"- {name}: {reason}" for name, reason in reasons if name]
    return ["## Not timed", "", *lines, ""]


def _peaks(peaks: Mapping[str, Any]) -> list[str]:
    sets = list(dict.fromkeys(name.split("/")[1] for name in peaks["gops"]))
    kinds = list(dict.fromkeys(name.split("/")[0] for name in peaks["gops"]))
    rows = []
    for kind in kinds:
        found = (peaks["gops"].get(f"{kind}/{name}") for name in sets)
        rows.append([kind, *("" if gops is None else f"{gops:,.0f}" for gops in found)])
    read = ", ".join(f"{place} {rate:.0f}" for place, rate in peaks["read_gb_s"].items())
    return [
        *table(["Gop/s", *sets], rows), f"Reading, GB/s by the size that is read again: {read}.", ""
    ]  # fmt: skip
