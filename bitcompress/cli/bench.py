"""`bitcompress bench`: kernels and whole models timed beside torch and ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from bitcompress.cli import options as given

threads_option = click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True,
    help="Threads of everybody.",
)  # fmt: skip


@click.group()
def bench() -> None:
    """Time kernels and whole models beside torch and ONNX Runtime, in turn in one process."""


@bench.command()
@click.option("--only", "patterns", multiple=True, metavar="PATTERN",
              help="Cases whose name holds PATTERN, or matches it; repeatable.")  # fmt: skip
@click.option("--level", "levels", multiple=True, metavar="NAME",
              help="An instruction set, all of this machine if not given; repeatable. With avx2 "
              "alone torch is held to AVX2, too.")  # fmt: skip
@threads_option
@click.option("--repeats", type=click.IntRange(1), default=30, show_default=True,
              help="Rounds; the best counts.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0), default=1.0, show_default=True,
              help="Who has taken as long sits out the other rounds of a case.")  # fmt: skip
@click.option("-o", "--output", type=given.PATH, metavar="FOLDER",
              help="Folder for kernels.json, kernels.md and kernels.png.")  # fmt: skip
@click.option("--list", "listed", is_flag=True, help="Name the cases and stop.")
@given.json_option
@given.progress_options
def kernels(
    patterns: tuple[str, ...], levels: tuple[str, ...], listed: bool, **options: Any
) -> None:
    """Every operator at every size and instruction set, and what the machine could do at most.

    A ratio is the other's time over ours. What is n/a, an operator that is not there or a package
    that is not installed, is listed with its reason.
    """
    from bitcompress.bench.cases import select

    chosen = select(patterns)
    if listed:
        for case in chosen:
            click.echo(case.name)
        return
    if levels == ("avx2",):
        # Read by torch when it first computes, which it has not done yet.
        os.environ.update(ONEDNN_MAX_CPU_ISA="AVX2", ATEN_CPU_CAPABILITY="avx2")
    _run_kernels(chosen, levels, **options)


def _run_kernels(
    cases: Any, levels: tuple[str, ...], *, threads: int, repeats: int, seconds: float,
    output: Path | None, as_json: bool, quiet: bool, no_progress: bool,
) -> None:  # fmt: skip
    from bitcompress.bench import results, roofline, tables
    from bitcompress.bench.kernels import bench_kernels, chosen_levels
    from bitcompress.cli import shown

    chosen = chosen_levels(levels)
    if output is not None:
        results.make_folder(output)
    report = bench_kernels(
        cases, levels=chosen, threads=threads, repeats=repeats, seconds=seconds,
        progress=given.progress(quiet, no_progress),
    )  # fmt: skip
    for column, reason in report["missing"].items():
        shown.note(f"{column} is n/a: {reason}", quiet)
    markdown = tables.kernels_markdown(report)
    if output is not None:
        drawn = {"kernels.png": lambda: roofline.sheet(report)}
        for note in results.write_results(output, "kernels", report, markdown, drawn):
            shown.note(note, quiet)
    if as_json:
        shown.as_json(report)
    else:
        shown.timed_kernels(tables.best_rows(report), report["rows"])
        if output is not None:
            click.echo(f"report: {output / 'kernels.md'}")
