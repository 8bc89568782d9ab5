"""report.md: what report.json holds, told to people who see bitcompress for the first time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FULL_WIDTH = 32
SHOWN_NAMES = 8
"""How many layers of one kind are named before the rest is counted."""


def write_markdown(report: Mapping[str, Any]) -> str:
    """The report as a page: the outcome first, then what stayed wide and why, then every layer."""
    title = str(report.get("model", {}).get("class_name") or "model").split(":")[-1]
    parts = [
        [f"# {title} at {report['bits_asked']} bits", ""],
        _how(report),
        _size(report["size"]),
        _quality(report["quality"]),
        speed_lines(report["speed"]),
        _left(report),
        _layers(report["layers"]),
        _runs(report.get("program", {})),
        _made(report),
    ]
    return "\n".join(line for part in parts for line in part).rstrip("\n") + "\n"


def _how(report: Mapping[str, Any]) -> list[str]:
    """What was done, in one paragraph."""
    states, training = report["states"], report["training"]
    spent = sum(stage["seconds"] for stage in report["stages"])
    peak = max((stage["peak_rss_mb"] for stage in report["stages"]), default=0.0)
    work = 100 * report["capture"]["coverage"]
    text = [
        f"The recipe `{report['recipe']}` made {states['packed']} of {sum(states.values())} "
        f"multiplying layers packed: weights stored as codes of few bits, and multiplied as such "
        f"with activations of few bits. That is {work:.1f} % of the multiply-accumulates; their "
        f"mean width is {report['bits']['weights_mean']:.2f} bits for weights and "
        f"{report['bits']['activations_mean']:.2f} for activations (weighted by work, float "
        f"counted as {FULL_WIDTH}).",
        f"Bounds were found on {report['data']}.",
    ]
    if training["steps"]:
        quick = " (`--quick`)" if report.get("quick") else ""
        text.append(
            f"Then {training['steps']} steps of `{training['method']}`{quick} brought the output "
            "towards that of the float model."
        )
    text.append(
        f"Seed {report['seed']}; {as_clock(spent)} and at most {peak:,.0f} MB of memory in all."
    )
    return [" ".join(text), ""]


def _size(size: Mapping[str, Any]) -> list[str]:
    ratio = size["ratio"] or 1.0
    return [
        "## Size",
        "",
        "| | bytes |",
        "|---|---|",
        f"| float: its real parameters in fp32 | {size['float_bytes']:,} |",
        f"| packed: all files that `bitcompress run` needs, headers included | "
        f"{size['packed_bytes']:,} |",
        f"| **smaller by** | **{ratio:.2f}x** |"
        if ratio >= 1
        else f"| **LARGER by** | **{1 / ratio:.2f}x** |",
        "",
        f"As papers count, which measures nothing: {size['paper_ratio']:.2f}x fewer bits in "
        f"parameters, {size['paper_ops_ratio']:.2f}x fewer bit-weighted operations.",
        "",
    ]


def _quality(quality: Mapping[str, Any]) -> list[str]:
    lines = ["## Quality", ""]
    if not quality:
        return [*lines, "Not measured: there was no picture to score (`--eval`).", ""]
    lines += [
        "| pictures | number | bicubic | float | packed | lost | SSIM float | SSIM packed | "
        "packed to float |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    keys = ("bicubic_psnr_y", "float_psnr_y", "packed_psnr_y", "drop_db")
    for name, figures in quality.items():
        cells = [as_number(figures.get(key)) for key in keys]
        cells += [as_number(figures.get(f"{who}_ssim_y"), 4) for who in ("float", "packed")]
        cells.append(as_number(figures.get("fidelity_psnr_y")))
        lines.append(f"| {as_cell(name)} | {figures['count']} | {' | '.join(cells)} |")
    lines += [
        "",
        "PSNR in dB and SSIM, both on the luma of the picture against the ground truth; `packed to "
        "float` is the PSNR between both models' pictures. Empty: nothing to compare with.",
    ]
    left_out = [
        f"- left out of {as_cell(name)}: {as_cell(str(picture))}: {as_cell(str(reason))}"
        for name, figures in quality.items()
        for picture, reason in figures.get("skipped", [])
    ]
    return [*lines, "", *left_out, ""] if left_out else [*lines, ""]


def speed_lines(speed: Mapping[str, Any]) -> list[str]:
    lines = ["## Speed", ""]
    if "packed_ms" not in speed:
        return [*lines, "Not measured.", ""]
    shape = ", ".join("x".join(map(str, sides)) for sides in speed["input"])
    lines += ["| | ms a forward |", "|---|---|"]
    if "float_ms" in speed:
        lines.append(f"| float | {speed['float_ms']:.1f} |")
    lines.append(f"| packed | {speed['packed_ms']:.1f} |")
    if "ratio" in speed:
        word = "faster" if speed["ratio"] >= 1 else "the speed of float: SLOWER"
        lines.append(f"| **packed is** | **{speed['ratio']:.2f}x {word}** |")
    return [
        *lines,
        "",
        f"Best of {speed['repeats']} in turn, on {threads_of(speed)}, input {shape}, "
        f"load of the machine {speed['load']:.2f}.",
        "",
        *([f"**These figures are rough**: {speed['rough']}.", ""] if speed.get("rough") else []),
    ]


def _left(report: Mapping[str, Any]) -> list[str]:
    """Every layer that is not packed at the width asked for, by reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    asked = report["bits_asked"]
    for row in report["layers"]:
        state = row["state"]
        width = max(row["weight_bits"], row["act_bits"])
        if state == "packed" and width <= asked:
            continue
        kind = f"packed at {width} bits" if state == "packed" else state
        groups.setdefault((kind, row["reason"]), []).append(f"`{row['name']}`")
    lines = [f"## What was not brought to {asked} bits, and why", ""]
    if not groups:
        packed = "Nothing: every layer that multiplies is packed."
        return [*lines, packed if report["layers"] else "There is no layer that multiplies.", ""]
    for (kind, reason), names in groups.items():
        lines.append(f"- {kind}: {first_names(names)}: {reason or 'as the recipe says'}")
    return [*lines, ""]


def first_names(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def _layers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "## Layers",
        "",
        "W and A: bits of weights and activations. SQNR: signal over the noise that the grids add "
        "to the layer's output. Bytes: what the layer takes in the file.",
        "",
        "| layer | op | W | A | state | SQNR dB | bytes | reason |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        weight = "" if row["op"] == "matmul" else row["weight_bits"]
        lines.append(
            f"| {as_cell(row['name'])} | {row['op']} | {weight} | {row['act_bits']} | "
            f"{row['state']} | {as_number(row['sqnr_db'])} | {row['stored_bytes']:,} | "
            f"{as_cell(row['reason'])} |"
        )
    return [*lines, ""]


def _runs(program: Mapping[str, Any]) -> list[str]:
    """What inputs of a size that came before run as, and what rules did for it."""
    refused = [*program.get("refusals", []), *program.get("reasons", {})]
    if not program.get("steps") and not refused:
        return []
    lines = ["## How it runs", ""]
    if program["steps"]:
        lines.append(
            f"The example, when its size comes again, is a list of {program['steps']} steps, "
            f"{program['native']} of them native, that gave the same bits as the model's forward."
        )
    else:
        lines.append(f"The model runs as it is written, step by step: {'; '.join(refused)}.")
    notes = [f"- {what}: {count}" for what, count in program["notes"].items()]
    return [*lines, "", *notes, *([""] if notes else [])]


def _made(report: Mapping[str, Any]) -> list[str]:
    """What a second run needs to come to the same result."""
    machine, parity = report["machine"], report["parity"]
    lines = ["## How it was made", "", "| stage | seconds | peak MB |", "|---|---|---|"]
    for stage in report["stages"]:
        lines.append(f"| {stage['stage']} | {stage['seconds']:.1f} | {stage['peak_rss_mb']:,.0f} |")
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    known = parity["psnr_db"]
    near = "are equal" if known is None or known == float("inf") else f"agree to {known:.1f} dB"
    lines += [
        "",
        f"{machine['processor']}, {threads_of(machine)}, native kernels: "
        f"{machine['native']}; {versions}.",
        f"The outputs of the packed model and of its simulation in float {near}; "
        f"{100 * parity['changed_share']:.3f} % of the 8-bit values differ.",
    ]
    lines += _fusions(report.get("fusions", {}))
    notes = [f"- {note}" for note in (*report["capture"]["notes"], *_own_notes(report))]
    return [*lines, "", *notes]


def _fusions(fusions: Mapping[str, Any]) -> list[str]:
    """How many attentions ran in one pass, and what kept others from it."""
    refusals = fusions.get("refusals", {})
    if not fusions.get("fused") and not refusals:
        return []
    text = f"Attentions that ran in one pass: {fusions['fused']}."
    if refusals:
        asked = ", ".join(f"`{name}` ({count})" for name, count in refusals.items())
        text += f" Others ran one product after the other; their numbers were read by {asked}."
    return [text]


def _own_notes(report: Mapping[str, Any]) -> list[str]:
    known = set(report["capture"]["notes"])
    return [note for note in report.get("notes", []) if note not in known]


def as_number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def threads_of(figures: Mapping[str, Any]) -> str:
    number = figures["threads"]
    return f"{number} thread{'' if number == 1 else 's'}"


def as_cell(text: str) -> str:
    """Text that does not break a table of Markdown."""
    return text.replace("|", "\\|").replace("\n", " ")


def as_clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
