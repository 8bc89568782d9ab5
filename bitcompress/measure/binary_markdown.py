"""report.md of a binary model: what report.json holds, told to people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bitcompress.measure.markdown import (
    as_cell,
    as_clock,
    as_number,
    first_names,
    speed_lines,
    threads_of,
)

"""How many layers of one kind are named before the rest is counted."""
MODELS = {
    "float": "float model",
    "binary": "binary model as trained",
    "packed": "binary model, packed",
}


def write_markdown(report: Mapping[str, Any]) -> str:
    """The report as a page: the outcome first, then what stayed float and why, then every layer."""
    title = str(report.get("model", {}).get("class_name") or "model").split(":")[-1]
    parts = [
        [f"# {title} in one bit", ""],
        _how(report),
        _quality(report["quality"], report.get("task", "")),
        _size(report["size"]),
        speed_lines(report["speed"]),
        _left(report["layers"]),
        _layers(report["layers"]),
        _made(report),
    ]
    return "\n".join(line for part in parts for line in part).rstrip("\n") + "\n"


def _how(report: Mapping[str, Any]) -> list[str]:
    """What was done, in one paragraph."""
    states, training = report["states"], report["training"]
    spent = sum(stage["seconds"] for stage in report["stages"])
    start = {
        "float": "from the float model's weights",
        "scratch": "from random weights",
    }[training["start"]]
    text = [
        f"The recipe `{report['recipe']}` made {states['packed']} of {sum(states.values())} "
        f"multiplying layers binary blocks of the method `{training['method']}`: weights and "
        f"activations of one bit, stored and multiplied as bits. That is "
        f"{100 * report['coverage']:.1f} % of the multiply-accumulates.",
        f"Training took {training['steps']} steps of {training['batch']} {start}"
        + (" (`--quick`)." if report.get("quick") else "."),
        f"Seed {report['seed']}; {as_clock(spent)} in all.",
    ]
    if not training["steps"]:
        text.append("**It was not trained: a binary model is worth nothing before.**")
    return [" ".join(text), ""]


def _quality(quality: Mapping[str, Any], task: str) -> list[str]:
    known = {key: quality[key] for key in MODELS if quality.get(key)}
    lines = ["## Quality", ""]
    if not known:
        return [*lines, "Not measured.", ""]
    metric = quality["metric"]
    names = sorted({name for figures in known.values() for name in figures})
    names.sort(key=lambda name: name != metric)
    lines += ["| | " + " | ".join(map(as_cell, names)) + " |", "|---" * (len(names) + 1) + "|"]
    for key, figures in known.items():
        cells = [as_number(figures.get(name), 4) for name in names]
        lines.append(f"| {MODELS[key]} | " + " | ".join(cells) + " |")
    return [*lines, "", f"On held-out data of the task `{task}`; models rank by `{metric}`.", ""]


def _size(size: Mapping[str, Any]) -> list[str]:
    ratio = size["ratio"] or 1.0
    verdict = (
        f"smaller by** | **{ratio:.2f}x" if ratio >= 1 else f"LARGER by** | **{1 / ratio:.2f}x"
    )
    return [
        "## Size",
        "",
        "| | bytes |",
        "|---|---|",
        f"| float: its real parameters in fp32 | {size['float_bytes']:,} |",
        f"| packed: all files that `bitcompress run` needs, headers included | "
        f"{size['packed_bytes']:,} |",
        f"| **{verdict}** |",
        "",
        f"As papers count (float + binary / 32 and / 64), which measures nothing: "
        f"{size['paper_params'] / 1e6:.3f} M of {size['float_params'] / 1e6:.3f} M parameters, "
        f"{size['paper_ops'] / 1e9:.4f} G of {size['float_ops'] / 1e9:.4f} G operations.",
        *_counted(size.get("counted")),
        "",
    ]


def _counted(counted: Mapping[str, float] | None) -> list[str]:
    """The full count, real and binary apart: what stays float often is most of it."""
    if not counted:
        return []
    return [
        "",
        f"With tables, norms and attention: {counted['params_real']:,} real parameters and "
        f"{counted['params_binary']:,} binary weights; {counted['ops_real'] / 1e9:.4f} G real "
        f"operations ({counted['ops_real'] / max(counted['ops'], 1):.0%} of the count) and "
        f"{counted['macs_binary'] / 1e9:.4f} G binary ones / 64.",
    ]


def _left(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every layer that stays float, by reason."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row["state"] != "packed":
            groups.setdefault(row["reason"], []).append(f"`{row['name']}`")
    lines = ["## What stayed float, and why", ""]
    if not groups:
        return [*lines, "Nothing: every layer that multiplies is a block.", ""]
    for reason, names in groups.items():
        lines.append(f"- {first_names(names)}: {reason}")
    return [*lines, ""]


def _layers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "## Layers",
        "",
        "Bytes: float parameters, and what the block takes in the file. ms: in a run module by "
        "module, float and packed; programs fuse further. Flipped: bits of the packed run that "
        "differ from the trained one.",
        "",
        "| layer | op | became | bytes float | bytes packed | ms float | ms packed | flipped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        became = row["became"] if row["state"] == "packed" else f"float: {row['reason']}"
        flipped = "" if row["flipped_share"] is None else f"{row['flipped_share']:.6f}"
        lines.append(
            f"| {as_cell(row['name'])} | {row['op']} | {as_cell(became)} | "
            f"{row['float_bytes']:,} | {row['stored_bytes']:,} | {as_number(row['float_ms'], 3)} | "
            f"{as_number(row['packed_ms'], 3)} | {flipped} |"
        )
    return [*lines, ""]


def _made(report: Mapping[str, Any]) -> list[str]:
    """What a second run needs to come to the same result."""
    machine, parity = report["machine"], report["parity"]
    lines = ["## How it was made", "", "| stage | seconds | peak MB |", "|---|---|---|"]
    for stage in report["stages"]:
        lines.append(f"| {stage['stage']} | {stage['seconds']:.1f} | {stage['peak_rss_mb']:,.0f} |")
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    known = parity["psnr_db"]
    near = "are equal" if known is None or math.isinf(known) else f"agree to {known:.1f} dB"
    return [
        *lines,
        "",
        f"{machine['processor']}, {threads_of(machine)}, native kernels: "
        f"{machine['native']}; {versions}.",
        f"The outputs of the packed model and of the trained one {near}; of {parity['bits']:,} "
        f"activation bits {100 * parity['flipped_share']:.5f} % differ.",
        "",
        *(f"- {note}" for note in report.get("notes", [])),
    ]
