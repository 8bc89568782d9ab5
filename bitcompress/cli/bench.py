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


@bench.command()
@click.argument("folder", type=given.PATH)
@given.packed_options
@click.option("--input", "inputs", multiple=True, metavar="NAME=1x3x64x64",
              help="Shape of an input of an unknown network, in order; repeatable.")  # fmt: skip
@click.option("--side", "sides", multiple=True, type=click.IntRange(8), default=(64,),
              show_default=True, help="Pixels of a side of the input; repeatable.")  # fmt: skip
@threads_option
@click.option("--repeats", type=click.IntRange(1), default=10, show_default=True,
              help="Rounds; the best counts.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0), default=60.0, show_default=True,
              help="Who has taken as long sits out the other rounds.")  # fmt: skip
@click.option("--limit", type=click.FloatRange(1), default=300.0, show_default=True,
              help="Seconds for exporting, quantizing and each model by itself.")  # fmt: skip
@click.option("--growth", is_flag=True,
              help="Also time and memory of each alone, 64 to 1024 pixels a side.")  # fmt: skip
@click.option("--largest", type=click.IntRange(64), default=1024, show_default=True,
              help="Pixels of a side where --growth stops.")  # fmt: skip
@click.option("--untrained", is_flag=True,
              help="The weights are random: nothing is said about quality.")  # fmt: skip
@click.option("-o", "--output", type=given.PATH, metavar="DIR",
              help="Folder for model.json, model.md and, with --growth, growth.png.")  # fmt: skip
@given.json_option
@given.progress_options
def model(**options: Any) -> None:
    """The packed model in FOLDER beside its float model, in turn in one process.

    FOLDER may be an exported file, OUT/model.onnx: it runs in ONNX Runtime, and the packed folder
    that it lies in takes its turn in torch.

    Float is the faster of torch (plain or channels last) and ONNX Runtime; int8 is static QDQ of
    the same model by ONNX Runtime. Without --float a known network is built with random weights,
    which do not change its time.
    """
    from bitcompress.cli.bench_model import Asked, run_model

    options["inputs"] = given.example(options.pop("inputs"))
    progress = given.progress(options["quiet"], options.pop("no_progress"))
    run_model(Asked(**options), progress)


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
