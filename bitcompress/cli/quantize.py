"""What `quantize`, `inspect` and `analyze` do once their options are parsed."""

from __future__ import annotations

import contextlib
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click
from torch import nn

from bitcompress import api, walk
from bitcompress.artifact import Source, check_place, check_writable, describe
from bitcompress.cli import shown
from bitcompress.data.calibration import packaged_calibration
from bitcompress.data.folders import PictureSet, open_pictures
from bitcompress.data.images import check_target, write_whole
from bitcompress.errors import DataError, NothingPacked, Unavailable, UsageError
from bitcompress.graph.ladder import climb
from bitcompress.measure.markdown import write_markdown
from bitcompress.plan import nothing_packed, still_open
from bitcompress.train.processes import part_processes, rank, said_alone

HOLD_OUT = 4
"""Without pictures to score, every fourth is kept from calibration and scored."""
STATE = "train.ckpt"
"""What a run that was broken off leaves in its work folder."""


@dataclass(frozen=True)
class Job:
    """The options of `quantize`."""

    output: Path | None
    bits: int | None
    recipe: str
    overrides: dict[str, Any]
    example: Any
    data: Path | None
    evals: tuple[Path, ...]
    data_kind: Literal["auto", "hr", "lr", "pairs"]
    quick: bool
    target_bytes: int | None
    min_coverage: float
    seed: int | None
    device: str
    dry_run: bool
    resume: bool
    overwrite: bool
    as_json: bool
    quiet: bool


def run_quantize(net: nn.Module, source: Source, job: Job, progress: Any) -> None:
    """`bitcompress quantize`."""
    if job.dry_run:
        run_inspect(
            net, source, job.example, job.bits, job.recipe, job.overrides, job.as_json,
            job.min_coverage,
        )  # fmt: skip
        return
    if job.output is None:
        raise UsageError("give --output, the folder to write")
    check_place(job.output, job.overwrite)
    check_writable(job.output)
    known = source.scale is not None or source.task == "classify"
    if job.example is None and not known:
        raise UsageError("the network is not known: give the shapes of its inputs with --input")
    first = rank() == 0
    quiet = job.quiet or not first
    if said_alone():
        shown.note(said_alone(), quiet)
    pictures, scored = _pictures(source, job)
    workdir = job.output.with_name(f"{job.output.name}.work")
    _say_what_is_used(source, job, pictures, scored, workdir, quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NothingPacked)
        result = api.quantize(
            net, job.example, bits=job.bits, recipe=job.recipe, data=pictures, seed=job.seed,
            device=job.device, overrides=job.overrides, quick=job.quick,
            min_coverage=job.min_coverage, target_bytes=job.target_bytes, progress=progress,
            workdir=workdir, resume=job.resume, source=source,
        )  # fmt: skip
    part_processes()
    if not result.report["states"]["packed"]:
        shown.note(result.report["notes"][-1], quiet)
    if not first:
        return  # one of several training processes: the first one measures and writes
    if job.data is None:
        result.report["data"] = f"{len(pictures.items)} small pictures that come with bitcompress"
    result.report["skipped"] = [[path.name, reason] for path, reason in pictures.skipped]
    samples = api.measure(result, scored, example_inputs=job.example, progress=progress)
    extra = {"report.md": write_markdown(result.report).encode()}
    try:
        from bitcompress.measure.picture import sheet

        extra["report.png"] = sheet(result.report, samples)
    except Unavailable as missing:
        shown.note(str(missing), quiet)
    api.save(result, job.output, job.overwrite, extra=extra)
    _tidy(workdir)
    if job.as_json:
        shown.as_json(result.report)
    else:
        shown.summary(result.report, job.output)


def _pictures(source: Source, job: Job) -> tuple[PictureSet, list[PictureSet]]:
    """What to calibrate on and what to score; no picture is in both."""
    if job.data is None and source.task is None:
        raise UsageError(
            "a network that is not known needs --data, pictures that it takes; for other inputs "
            "give batches of your own in Python: bitcompress.quantize(model, example, data=...)"
        )
    scale = source.scale or 1
    pictures = open_pictures(job.data or packaged_calibration(), scale=scale, kind=job.data_kind)
    if job.data is None:
        pictures = replace(pictures, name="packaged")
    if source.scale is None:
        if job.evals:
            raise UsageError("--eval scores enlarged pictures; this model does not make any")
        return pictures, []
    scored: list[PictureSet] = []
    for path in job.evals:
        chosen = open_set(path, scale, job.data_kind, [s.name for s in scored]).without(pictures)
        if not chosen.items:
            raise DataError(f"{path}: every picture is used for calibration; score others")
        scored.append(chosen)
    if not scored and len(pictures.items) >= HOLD_OUT:
        pictures, held = pictures.split(HOLD_OUT)
        scored = [held]
    return pictures, scored


def open_set(
    path: Path, scale: int, kind: Literal["auto", "hr", "lr", "pairs"], taken: list[str]
) -> PictureSet:
    """The pictures at a path under a name that no other set has.

    Raises: DataError if there is no usable picture.
    """
    pictures = open_pictures(path, scale=scale, kind=kind)
    unique, number = pictures.name, 2
    while unique in taken:
        unique, number = f"{pictures.name}-{number}", number + 1
    return replace(pictures, name=unique)


def _say_what_is_used(
    source: Source,
    job: Job,
    pictures: PictureSet,
    scored: list[PictureSet],
    workdir: Path,
    quiet: bool,
) -> None:
    """Notes on what the user did not say, or may not expect."""
    shown.left_out(pictures.skipped, quiet)
    for chosen in scored:
        if chosen.skipped != pictures.skipped:
            shown.left_out(chosen.skipped, quiet)
    if job.data is None:
        shown.note(
            f"no --data: bounds are found on {len(pictures.items)} small pictures that come with "
            "bitcompress",
            quiet,
        )
    if scored and not job.evals:
        shown.note(
            f"no --eval: {len(scored[0].items)} pictures are kept from calibration and scored",
            quiet,
        )
    if source.task == "classify":
        shown.note("accuracy is not measured: --eval knows enlarged pictures only", quiet)
    if job.resume and not (workdir / STATE).exists():
        shown.note(f"{workdir} holds nothing to resume: starting from the beginning", quiet)


def _tidy(workdir: Path) -> None:
    """Remove the state of a finished run, and nothing else that may lie there."""
    with contextlib.suppress(OSError):
        (workdir / STATE).unlink()
    with contextlib.suppress(OSError):
        workdir.rmdir()


def run_inspect(
    net: nn.Module,
    source: Source,
    example: Any,
    bits: int | None,
    recipe: str,
    overrides: dict[str, Any],
    as_json: bool,
    min_coverage: float = 0.0,
    ladder: bool = False,
) -> None:
    """`bitcompress inspect` of a float model, and `quantize --dry-run`."""
    if example is None:
        example = api.example_for(source)
    seen = api.inspect(net, example, bits=bits, recipe=recipe, overrides=overrides)
    walk.check_coverage(seen.prepared, min_coverage)
    rows, prepared = seen.rows(), seen.prepared
    changes = still_open(prepared.plans, seen.recipe), nothing_packed(prepared.plans)
    notes = [*prepared.notes, *filter(None, changes)]
    rungs = climb(net, example, export=True).rows() if ladder else None
    if as_json:
        shown.as_json({
            **({} if rungs is None else {"ladder": rungs}),
            "recipe": seen.recipe.metadata.name, "bits": seen.recipe.bits,
            "arch": source.arch, "config": dict(source.config),
            "tier": prepared.captured.tier, "coverage": prepared.coverage,
            "notes": notes, "layers": rows,
        })  # fmt: skip
        return
    if source.arch:
        settings = ", ".join(f"{key}={value}" for key, value in source.config.items())
        click.echo(f"{source.arch}({settings})")
    shown.layers(rows)
    click.echo(
        f"{len(rows)} layers, captured by {prepared.captured.tier}; recipe "
        f"{seen.recipe.metadata.name} at {seen.recipe.bits} bits puts "
        f"{100 * prepared.coverage:.1f} % of the multiply-accumulates on codes"
    )
    for text in notes:
        click.echo(f"note: {text}")
    if rungs is not None:
        shown.ladder(rungs)


def run_inspect_packed(folder: Path, as_json: bool) -> None:
    """`bitcompress inspect` of a packed folder."""
    found = describe(folder)
    found["float_layers"] = _float_layers(folder)
    if as_json:
        shown.as_json(found)
        return
    shown.packed_folder(folder, found)
    for row in found["float_layers"]:
        click.echo(f"left float: {row['name']}: {row['reason']}")


def _float_layers(folder: Path) -> list[dict[str, str]]:
    """The layers that were not compressed, with the reason, where the report is at hand."""
    try:
        layers = json.loads((folder / "report.json").read_text(encoding="utf-8"))["layers"]
        return [
            {"name": str(row["name"]), "reason": str(row["reason"])}
            for row in layers
            if row["state"] == "float"
        ]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []  # the folder is good without its report


def run_analyze(
    net: nn.Module,
    source: Source,
    example: Any,
    *,
    output: Path | None,
    data: Path | None,
    as_json: bool,
    progress: Any,
) -> None:
    """`bitcompress analyze`."""
    if output is not None:
        if output.suffix.lower() != ".png":
            raise UsageError(f"{output}: the picture of the table is a .png")
        check_target(output)
    rows = api.analyze(net, example, data=data, progress=progress, source=source)
    if output is not None:
        from bitcompress.measure.picture import sensitivity_sheet

        write_whole(output, sensitivity_sheet(rows))
    if as_json:
        shown.as_json(rows)
    else:
        shown.sensitivity(rows)
