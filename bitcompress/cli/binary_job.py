"""What `binarize` does once its options are parsed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bitcompress import api_binary
from bitcompress.api import open_source
from bitcompress.artifact import check_place, check_writable
from bitcompress.cli import shown
from bitcompress.errors import Unavailable, UsageError
from bitcompress.measure.binary_markdown import write_markdown
from bitcompress.models.load import load_model
from bitcompress.train.processes import part_processes, rank, said_alone

STATE = "train.ckpt"
"""What a run that was broken off leaves in its work folder."""


@dataclass(frozen=True)
class BinaryJob:
    """The options of `binarize`."""

    model: Path | None
    recipe: str
    output: Path | None
    data: Path | None
    score: Path | None
    overrides: dict[str, Any]
    example: Any
    arch: str | None
    arch_set: dict[str, Any] | None
    unsafe_pickle: bool
    from_scratch: bool
    quick: bool
    seed: int | None
    device: str
    curves: Path | None
    dry_run: bool
    resume: bool
    overwrite: bool
    as_json: bool
    quiet: bool


def run_binarize(job: BinaryJob, progress: Any) -> None:
    """`bitcompress binarize`."""
    recipe = api_binary.resolve(
        job.recipe, job.seed, job.overrides, quick=job.quick, from_scratch=job.from_scratch
    )
    if job.output is None and not job.dry_run:
        raise UsageError("give --output, the folder to write")
    net, source = None, None
    if job.model is not None:
        net, source = open_source(
            load_model(
                job.model, arch=job.arch, config=job.arch_set, unsafe_pickle=job.unsafe_pickle
            )
        )
    if job.dry_run:
        _dry_run(api_binary.inspect(net, job.example, recipe=recipe, source=source), job)
        return
    assert job.output is not None
    check_place(job.output, job.overwrite)
    check_writable(job.output)
    first = rank() == 0
    workdir = job.output.with_name(f"{job.output.name}.work")
    quiet = job.quiet or not first
    if said_alone():
        shown.note(said_alone(), quiet)
    if job.resume and not (workdir / STATE).exists():
        shown.note(f"{workdir} holds nothing to resume: starting from the beginning", quiet)
    result = api_binary.binarize(
        net, job.example, recipe=recipe, data=job.data, score=job.score, device=job.device,
        progress=progress if first else None, workdir=workdir, resume=job.resume,
        curves=job.curves, source=source,
    )  # fmt: skip
    part_processes()
    if first:  # of several training processes the first one writes
        _write(result, job, quiet)
        _tidy(workdir)


def _dry_run(planned: Any, job: BinaryJob) -> None:
    rows = [plan.row() for plan in planned.plans]
    if job.as_json:
        shown.as_json({"recipe": job.recipe, "notes": list(planned.notes), "layers": rows})
        return
    total = sum(row["macs"] for row in rows) or 1
    width = max((len(row["name"]) for row in rows), default=5)
    click.echo(f"{'layer':<{width}}  {'op':<7} {'work':>6}  becomes")
    for row in rows:
        becomes = row["became"] if row["state"] == "packed" else f"float: {row['reason']}"
        click.echo(
            f"{row['name']:<{width}}  {row['op']:<7} {100 * row['macs'] / total:5.1f}%  {becomes}"
        )
    binary = sum(row["macs"] for row in rows if row["state"] == "packed")
    click.echo(
        f"{len(rows)} layers; recipe {job.recipe} puts {100 * binary / total:.1f} % of the "
        "multiply-accumulates on bits"
    )
    for text in planned.notes:
        click.echo(f"note: {text}")


def _write(result: api_binary.BinaryResult, job: BinaryJob, quiet: bool) -> None:
    """Save the packed model with its report as JSON, page and picture."""
    assert job.output is not None
    extra = {"report.md": write_markdown(result.report).encode()}
    try:
        from bitcompress.measure.binary_sheet import sheet

        extra["report.png"] = sheet(result.report, result.samples)
    except Unavailable as missing:
        shown.note(str(missing), quiet)
    api_binary.save(result, job.output, job.overwrite, extra=extra)
    if job.as_json:
        shown.as_json(result.report)
    else:
        _summary(result.report, job.output)


def _summary(report: dict[str, Any], output: Path) -> None:
    """What a finished run came to."""
    states, quality = report["states"], report["quality"]
    click.echo(
        f"{shown.counted(states['packed'], 'layer')} packed in one bit, {states['float']} float; "
        f"{100 * report['coverage']:.1f} % of the multiply-accumulates on bits"
    )
    shown.size(report["size"])
    metric = quality["metric"]
    figures = [
        f"{quality[who][metric]:.4f} {who}"
        for who in ("float", "binary", "packed")
        if metric in quality.get(who, {})
    ]
    click.echo(f"{metric}: {', '.join(figures)}")
    shown.speed(report["speed"])
    click.echo(f"report: {output / 'report.md'}")


def _tidy(workdir: Path) -> None:
    """Remove the state of a finished run, and nothing else that may lie there."""
    with contextlib.suppress(OSError):
        (workdir / STATE).unlink()
    with contextlib.suppress(OSError):
        workdir.rmdir()
