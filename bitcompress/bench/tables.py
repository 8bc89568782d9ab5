"""What was timed, as Markdown: docs/benchmarks.md holds such tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bitcompress.bench.growth import exponent

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


def model_markdown(report: Report) -> str:
    """The report of `bench model` for people."""
    machine, versions, rows = report["machine"], report["versions"], report["rows"]
    names = ("bitcompress", "torch", "onnxruntime")
    lines = [
        "# Whole models", "",
        f"{machine['processor']}, {counted(machine['threads'])}, best of up to "
        f"{report['repeats']} rounds, {report['date']}; "
        + ", ".join(f"{name} {versions[name]}" for name in names if name in versions) + ".",
        "All take turns in one process. Float is the faster of torch and ONNX Runtime; memory is "
        "that of a process with the model alone.", "",
        *_models(rows),
    ]  # fmt: skip
    folders = [
        f"- {row['model']} at {_sides(row)}: the folder in torch takes "
        f"{_number(row['ways_ms']['packed_torch/folder'])} ms, "
        f"{row['psnr_to_folder_db']:.0f} dB from the file"
        for row in rows
        if "psnr_to_folder_db" in row
    ]
    if folders:
        lines += ["## The folders behind the files", "", *folders, ""]
    reasons = {
        f"- {name} of {row['model']} at {_sides(row)}: {reason}"
        for row in rows
        for name, reason in row["absent"].items()
    }
    if reasons:
        lines += ["## Not measured", "", *sorted(reasons), ""]
    if "growth" in report:
        lines += ["## Growth", "", *_growth(report["growth"])]
    return "\n".join(lines).rstrip() + "\n"


def _sides(row: Mapping[str, Any]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in row["input"])


def _number(value: float | None, digits: int = 1) -> str:
    return "n/a" if value is None else f"{value:,.{digits}f}"


def _models(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["model", "W/A", "input", "packed ms", "median", "spread", "torch", "ORT", "ORT int8",
            "torch bf16", "float / packed", "int8 / packed", "MB", "MB float", "lost dB", "on",
            "load"]  # fmt: skip
    return table(
        head,
        (
            [
                row["model"], f"{row['weight_bits']}/{row['act_bits']}", _sides(row),
                _number(row["ms"]), _number(row["median_ms"]), f"{100 * row['spread']:.0f} %",
                _number(row["float_ms"]["torch"]), _number(row["float_ms"]["ort"]),
                _number(row["int8_ms"]["ort"]), _number(row["bf16_ms"]["torch"]),
                times(row["ratio_float"]), times(row["ratio_int8"]), _number(row["rss_mb"], 0),
                _number(row.get("float_rss_mb"), 0), _number(row["psnr_drop_db"], 2),
                row["psnr_set"], f"{row['load']:.1f}",
            ]
            for row in rows
        ),
    )  # fmt: skip


def _growth(grown: Mapping[str, Any]) -> list[str]:
    sides = sorted({row["side"] for which in ("packed", "float") for row in grown[which]})
    by = {which: {row["side"]: row for row in grown[which]} for which in ("packed", "float")}

    def cell(which: str, side: int, key: str) -> str:
        return _number(by[which].get(side, {}).get(key), 0)

    lines = table(
        ["side", "packed ms", "float ms", "packed MB", "float MB"],
        (
            [str(side), *(cell(which, side, key) for key in ("ms", "rss_mb")
                          for which in ("packed", "float"))]
            for side in sides
        ),
    )  # fmt: skip
    for which in ("packed", "float"):
        powers = {key: exponent(grown[which], key) for key in ("ms", "rss_mb")}
        if None not in powers.values():
            lines.append(
                f"- {which}: over the last step time grows as pixels^{powers['ms']:.2f}, memory "
                f"(with Python and torch in it) as pixels^{powers['rss_mb']:.2f}"
            )
    lines += [f"- {which} stops there: {reason}" for which, reason in grown["absent"].items()]
    return [*lines, ""]
