"""What `bitcompress bench model` does once its options are parsed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bitcompress.artifact import Source
from bitcompress.bench import results
from bitcompress.bench.growth import FLOAT_UP_TO, SIDES, measure_alone
from bitcompress.bench.growth_picture import draw_growth
from bitcompress.bench.model import Settings, bench_model, whole_report
from bitcompress.bench.tables import model_markdown
from bitcompress.cli import shown
from bitcompress.cli.subjects import UNTRAINED, batches_like, examples_of, subject_of
from bitcompress.errors import UsageError


@dataclass(frozen=True)
class Asked:
    """The options of the command."""

    folder: Path
    float_file: Path | None
    arch: str | None
    unsafe_pickle: bool
    inputs: dict[str, Any] | None
    sides: tuple[int, ...]
    threads: int
    repeats: int
    seconds: float
    limit: float
    growth: bool
    largest: int
    untrained: bool
    output: Path | None
    as_json: bool
    quiet: bool


def run_model(asked: Asked, progress: Any) -> None:
    """`bitcompress bench model`."""
    settings = Settings(asked.threads, asked.repeats, asked.seconds, asked.limit)
    if asked.output is not None:
        results.make_folder(asked.output)
    subject, source = subject_of(
        asked.folder, asked.float_file, asked.arch, asked.unsafe_pickle, asked.untrained,
        asked.threads,
    )  # fmt: skip
    if subject.float_model is not None and not (subject.trained or asked.untrained):
        shown.note(f"no --float: {UNTRAINED}, which do not change its time", asked.quiet)
    examples = examples_of(source, asked.sides, asked.inputs)
    if asked.growth and source.scale is None:
        raise UsageError("--growth is for networks that take pictures of any size")
    rows = bench_model(subject, examples, lambda e: batches_like(source, e), settings, progress)
    report = whole_report(rows, settings)
    if source.scale is not None and asked.inputs is None:
        _memory(asked, source, subject.missing, report)
    if asked.growth:
        report["growth"] = _growth(asked, subject.missing, progress)
    _give(asked, report)


def _give(asked: Asked, report: dict[str, Any]) -> None:
    """Write and show the report, and name what is n/a."""
    for row in report["rows"]:
        for name, reason in row["absent"].items():
            shown.note(f"{name} is n/a: {reason}", asked.quiet)
    if asked.output is not None:
        pictures: dict[str, Callable[[], bytes]] = {}
        if asked.growth:
            pictures["growth.png"] = lambda: draw_growth(report)
        markdown = model_markdown(report)
        for note in results.write_results(asked.output, "model", report, markdown, pictures):
            shown.note(note, asked.quiet)
    if asked.as_json:
        shown.as_json(report)
        return
    shown.timed_models(report["rows"])
    if asked.output is not None:
        click.echo(f"report: {asked.output / 'model.md'}")


def _command(asked: Asked, which: str, sides: list[int]) -> list[str]:
    """The command line of a process with one model in it."""
    words = {
        "folder": str(asked.folder), "arch": asked.arch, "unsafe": asked.unsafe_pickle,
        "float": asked.float_file and str(asked.float_file), "which": which, "sides": sides,
        "threads": asked.threads,
    }  # fmt: skip
    return [sys.executable, "-m", "bitcompress.cli.alone", json.dumps(words)]


def _memory(asked: Asked, source: Source, missing: str, report: dict[str, Any]) -> None:
    """Fill in what each model needs in a process of its own, at the size of each row.

    missing: why there is no float model.
    """
    sides = sorted({row["input"][0][-1] for row in report["rows"]})
    for which, key in (("packed", "rss_mb"), ("float", "float_rss_mb")):
        found, reason = _alone(asked, which, sides, missing)
        by_side = {row["side"]: row["rss_mb"] for row in found}
        for row in report["rows"]:
            row[key] = by_side.get(row["input"][0][-1]) if source.scale is not None else None
            if row[key] is None:
                row["absent"][key] = reason or "the network takes no pictures of this size"


def _alone(
    asked: Asked, which: str, sides: list[int], missing: str
) -> tuple[list[dict[str, Any]], str]:
    """The rows of one model by itself, and why there are no more."""
    if which == "float" and missing:
        return [], missing
    return measure_alone(_command(asked, which, sides), asked.limit)


def _growth(asked: Asked, missing: str, progress: Any) -> dict[str, Any]:
    """Both models by themselves, size after size; what is left out says why."""
    grown: dict[str, Any] = {"absent": {}}
    for number, (which, most) in enumerate((("packed", asked.largest), ("float", FLOAT_UP_TO))):
        sides = [side for side in SIDES if side <= min(most, asked.largest)]
        grown[which], reason = _alone(asked, which, sides, missing)
        if reason:
            grown["absent"][which] = reason
        if progress is not None:
            progress("bench growth", number + 1, 2)
    return grown
