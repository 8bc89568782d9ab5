"""What `export` does once its options are parsed: a packed folder becomes a file for others."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from bitcompress.backends.export import NAME, export, target
from bitcompress.cli import shown
from bitcompress.cli.pictures import opened_folder
from bitcompress.errors import Unavailable, UsageError


def run_export(
    backend: str,
    folder: Path,
    output: Path | None,
    *,
    portable: bool,
    nudge: bool,
    example: Any,
    overwrite: bool,
    float_file: Path | None,
    arch: str | None,
    unsafe_pickle: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """`bitcompress export`."""
    if nudge and not portable:
        raise UsageError("--nudge is for --portable: packed operators read offsets as they are")
    place = target(output or folder / NAME, overwrite)
    loaded, _ = opened_folder(folder, float_file, arch, unsafe_pickle)
    stored = (folder / "model.safetensors").stat().st_size

    def progress(stage: str) -> None:
        shown.note(stage, quiet or as_json)

    if backend == "tensorrt":
        if portable:
            raise UsageError("--portable is for --to onnx: TensorRT gets the packed operators")
        report = _tensorrt().export_engine(
            loaded, place, example, overwrite=overwrite, progress=progress
        )
    else:
        report = export(
            loaded, place, example, overwrite=overwrite, portable=portable, nudge=nudge,
            progress=progress,
        )  # fmt: skip
    report["packed_bytes"] = stored
    if as_json:
        shown.as_json(report)
        return
    click.echo(summary(report, place))


def _tensorrt() -> Any:
    """The backend of TensorRT. Raises: Unavailable where this bitcompress has none."""
    try:
        return import_module("bitcompress.backends.tensorrt")
    except ImportError as error:
        raise Unavailable("this bitcompress has no TensorRT backend: export --to onnx") from error


def summary(report: dict[str, Any], place: Path) -> str:
    """The report in a few lines."""
    sizes = report["sizes"]
    free = {0: "the one size of the example", 1: "pictures of any size"}.get(
        sizes["step"], f"pictures whose sides are multiples of {sizes['step']}"
    )
    if not sizes.get("batch", True):
        free += ", one number of samples"
    lines = [
        f"{place}: {report['file_bytes']:,} bytes, {report['nodes']} nodes, weights "
        f"{report['initializer_bytes']:,} bytes; model.safetensors has {report['packed_bytes']:,}",
        f"takes {free}"
        + (f" ({why})" if (why := sizes["reason"] or report.get("passed_over")) else ""),
    ]
    for row in report["whole"]:
        shape = "x".join(map(str, row["input"]))
        flipped = row["flipped_codes"]
        codes = "" if math.isnan(flipped) else f", {100 * flipped:.4f} % of codes flipped"
        lines.append(f"gate: {shape}: {row['psnr_db']:.1f} dB from packed{codes}")
    if (metric := report.get("metric")) is not None:
        lines.append(
            f"gate: a photograph: {metric['file_db']:.2f} dB, "
            f"{metric['apart_db']:.1g} dB apart from packed"
        )
    worst = max((row["apart"] for row in report["operators"]), default=0.0)
    nodes = sum(row["nodes"] for row in report["operators"])
    if nodes:
        lines.append(f"gate: {nodes} packed nodes on equal inputs: at most {worst:.1g} apart")
    if (told := report.get("tensorrt")) is not None:
        lines.append(
            f"tensorrt: {told['engine']}"
            if told["engine"]
            else f"tensorrt: no engine: {told['reason']}; then {told['command']}"
        )
    lines.extend(report.get("notes", ()))
    return "\n".join(lines)
