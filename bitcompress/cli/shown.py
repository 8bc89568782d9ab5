"""What commands print: figures as tables, anything as JSON on stdout; notes on stderr."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bitcompress.artifact.store import jsonable
from bitcompress.cli.group import real_stdout

MOST_SKIPPED = 10


def as_json(value: Any) -> None:
    """A value on stdout; what JSON cannot hold (infinite, NaN) becomes null."""
    click.echo(json.dumps(jsonable(value), indent=1, allow_nan=False), file=real_stdout())


def note(text: str, quiet: bool = False) -> None:
    """A line on stderr that is no error."""
    if not quiet:
        click.echo(f"note: {text}", err=True)


def left_out(skipped: Sequence[tuple[Path, str]], quiet: bool = False) -> None:
    """Name the pictures that are not used, and count them."""
    for path, reason in skipped[:MOST_SKIPPED]:
        reason = reason.removeprefix(f"{path} ").removeprefix(f"{path}: ")
        note(f"left out {path}: {reason}", quiet)
    if len(skipped) > 1:
        note(f"{len(skipped)} pictures were left out", quiet)


def table(title: str, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; the first column is text, the others are numbers."""
    click.echo(title)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    width = max(100, shutil.get_terminal_size().columns)
    Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False).print(made)


QUALITY = {
    "bicubic_psnr_y": "bicubic",
    "float_psnr_y": "float",
    "packed_psnr_y": "packed",
    "drop_db": "lost",
    "fidelity_psnr_y": "packed to float",
    "float_ssim_y": "SSIM float",
    "packed_ssim_y": "SSIM packed",
}


def quality(sets: Mapping[str, Mapping[str, Any]]) -> None:
    """PSNR in dB and SSIM of each set, as far as they were measured."""
    columns = {k: v for k, v in QUALITY.items() if any(f.get(k) is not None for f in sets.values())}
    rows = [
        [name, str(figures["count"]), *(_number(key, figures.get(key)) for key in columns)]
        for name, figures in sets.items()
    ]
    if rows:
        table("quality: PSNR in dB and SSIM, on luma", ["set", "pictures", *columns.values()], rows)


def _number(key: str, value: float | None) -> str:
    return "" if value is None else f"{value:.{4 if 'ssim' in key else 2}f}"


def size(figures: Mapping[str, Any]) -> None:
    """Bytes of float and packed model."""
    packed = f"{figures['packed_bytes']:,} bytes packed"
    if "float_bytes" not in figures:
        click.echo(f"size: {packed}")
        return
    ratio = figures["ratio"]
    verdict = f"{ratio:.2f}x smaller" if ratio >= 1 else f"{1 / ratio:.2f}x LARGER"
    click.echo(f"size: {figures['float_bytes']:,} bytes float, {packed}: {verdict}")


def speed(figures: Mapping[str, Any]) -> None:
    """Milliseconds of float and packed model."""
    if "packed_ms" not in figures:
        return
    words = [
        f"{figures[f'{w}_ms']:.1f} ms {w}" for w in ("float", "packed") if f"{w}_ms" in figures
    ]
    ratio = figures.get("ratio")
    verdict = "" if ratio is None else f": {ratio:.2f}x " + (
        "faster" if ratio >= 1 else "the speed of float, slower"
    )  # fmt: skip
    shape = ", ".join("x".join(map(str, sides)) for sides in figures["input"])
    click.echo(
        f"speed: {', '.join(words)}{verdict} (best of {figures['repeats']}, input {shape}, "
        f"{counted(figures['threads'], 'thread')}, load {figures['load']:.2f})"
    )
    if figures.get("rough"):
        click.echo(f"  these figures are rough: {figures['rough']}; measure again when it is quiet")


def counted(number: int, thing: str) -> str:
    """A number of things: 1 thread, 2 threads."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def timed_kernels(fastest: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
    """The fastest level of each case beside the others, and what could not be timed."""
    columns = {"torch_fp32": "torch", "ort_fp32": "ORT", "ort_int8": "int8", "torch_bf16": "bf16"}
    if fastest:
        table(
            "fastest level of each case: times faster than torch, ONNX Runtime, torch bf16",
            ["case", "level", "us", *columns.values(), "peak"],
            [
                [
                    f"{row['op']} W{row['weight_bits']}A{row['act_bits']} {row['shape']}",
                    row["level"], f"{row['us']:,.0f}",
                    *(_ratio(row["ratio"][column]) for column in columns),
                    f"{100 * row['peak_fraction']:.0f} %",
                ]
                for row in fastest
            ],
        )  # fmt: skip
    lacking = {row["op"]: row["absent"]["us"] for row in rows if row["us"] is None}
    for name, reason in lacking.items():
        click.echo(f"not timed: {name}: {reason}")


def timed_models(rows: Sequence[Mapping[str, Any]]) -> None:
    """A packed model beside the others, a line a size: the best float, and int8."""
    table(
        "ms of one run: packed, torch, ONNX Runtime (ORT, int8); how many times faster packed is",
        ["model", "input", "packed", "torch", "ORT", "int8", "bf16", "of float", "of int8", "MB",
         "lost dB"],
        [
            [
                f"{row['model']} W{row['weight_bits']}A{row['act_bits']}",
                ", ".join("x".join(map(str, sides[-2:])) for sides in row["input"]),
                f"{row['ms']:.1f}",
                *(
                    "n/a" if ms is None else f"{ms:.1f}"
                    for ms in (*row["float_ms"].values(), *row["int8_ms"].values(),
                               *row["bf16_ms"].values())
                ),
                _ratio(row["ratio_float"]), _ratio(row["ratio_int8"]),
                "n/a" if row["rss_mb"] is None else f"{row['rss_mb']:.0f}",
                "n/a" if row["psnr_drop_db"] is None else f"{row['psnr_drop_db']:.2f}",
            ]
            for row in rows
        ],
    )  # fmt: skip


def _ratio(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}x"


def ladder(rungs: Sequence[Mapping[str, Any]]) -> None:
    """How far each way of capture sees a model, and why no further."""
    table(
        "ladder: the share of the model that each way of capture sees",
        ["rung", "work", "layers", "parts", "why not all"],
        [
            [
                rung["tier"], f"{100 * rung['coverage']:.1f} %", f"{100 * rung['layers']:.1f} %",
                str(rung["regions"]), rung["reason"],
            ]
            for rung in rungs
        ],
    )  # fmt: skip


def summary(report: Mapping[str, Any], output: Path) -> None:
    """What a finished run came to."""
    states = report["states"]
    click.echo(
        f"{counted(states['packed'], 'layer')} packed, {states['simulated']} simulated, "
        f"{states['float']} float; {100 * report['capture']['coverage']:.1f} % of the "
        "multiply-accumulates on codes"
    )
    size(report["size"])
    quality(report["quality"])
    speed(report["speed"])
    click.echo(f"report: {output / 'report.md'}")


def layers(rows: Sequence[Mapping[str, Any]]) -> None:
    """What each layer would become; long names are not cut."""
    total = sum(row["macs"] for row in rows) or 1
    width = max((len(row["name"]) for row in rows), default=5)
    click.echo(f"{'layer':<{width}}  {'op':<7} {'W':>2} {'A':>2} {'work':>6}  becomes")
    for row in rows:
        weight = "" if row["op"] == "matmul" else row["weight_bits"]
        reason = f": {row['reason']}" if row["reason"] else ""
        click.echo(
            f"{row['name']:<{width}}  {row['op']:<7} {weight:>2} {row['act_bits']:>2} "
            f"{100 * row['macs'] / total:5.1f}%  {row['state']}{reason}"
        )


def packed_folder(folder: Path, found: Mapping[str, Any]) -> None:
    """What a packed folder holds."""
    source, rows = found["source"], found["layers"]
    click.echo(
        f"{folder}: {source['arch'] or source['class_name']}, recipe {found['recipe']}, "
        f"format {found['format_version']}, written by bitcompress {found['library']}"
    )
    width = max((len(row["name"]) for row in rows), default=5)
    click.echo(f"{'layer':<{width}}  {'op':<7} {'W':>2} {'A':>2} {'bytes':>9}  state, shape")
    for row in rows:
        weight = "" if row["op"] == "matmul" else row["weight_bits"]
        shape = "x".join(map(str, row["shape"]))
        click.echo(
            f"{row['name']:<{width}}  {row['op']:<7} {weight:>2} {row['act_bits']:>2} "
            f"{row['bytes']:>9,}  {row['state']} {shape}"
        )
    click.echo(f"and {len(found['tensors'])} tensors that stay float")
    for name, file in found["files"].items():
        if file["state"] != "complete":
            click.echo(f"file {name}: {file['state']}")
    for key, value in found["bytes"].items():
        click.echo(f"{key.replace('_', ' ')}: {value:,} bytes")


def sensitivity(rows: Sequence[Mapping[str, Any]]) -> None:
    """SQNR of each layer at each width."""
    widths = sorted({row["bits"] for row in rows}, reverse=True)
    cells: dict[str, dict[int, float]] = {}
    for row in rows:
        cells.setdefault(row["name"], {})[row["bits"]] = row["sqnr_db"]
    width = max((len(name) for name in cells), default=18)
    head = "layer (SQNR in dB)"
    width = max(width, len(head))
    click.echo(f"{head:<{width}} " + "".join(f"{w:>5} b" for w in widths))
    for name, known in cells.items():
        figures = "".join(f"{known[w]:7.1f}" if w in known else f"{'':7}" for w in widths)
        click.echo(f"{name:<{width}} {figures}")


def health(found: Mapping[str, Any]) -> None:
    """What `doctor` found."""
    for name, number in found["versions"].items():
        click.echo(f"{name}: {number}")
    machine, kernels = found["machine"], found["native"]
    click.echo(f"processor: {machine['processor']}")
    click.echo(f"threads: {machine['threads']} (--threads changes it)")
    levels = ", ".join(kernels["levels"])
    state = f"{machine['native']} (this processor can: {levels})" if kernels["ok"] else (
        f"none, so packed models run on plain torch, slowly: {kernels['reason']}"
    )  # fmt: skip
    click.echo(f"native kernels: {state}")
    runtime = found["onnxruntime"]
    state = f"ready, operators of version {runtime['operators']}" if runtime["ok"] else (
        f"not ready: {runtime['reason']}"
    )  # fmt: skip
    click.echo(f"packed operators in ONNX Runtime: {state}")
    for name, entry in found["optional"].items():
        state = "installed" if entry["ok"] else f"missing, {entry['install']}"
        click.echo(f"{name}: {state} [{entry['for']}]")
