"""`bench kernels`: every case at every level, in turn with the others at the same work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.bench.cases import Case
from bitcompress.bench.inputs import Work
from bitcompress.bench.operators import OPERATORS
from bitcompress.bench.peaks import Peaks, measure_peaks
from bitcompress.bench.rivals import COLUMNS
from bitcompress.errors import GateError, Unavailable, UsageError
from bitcompress.measure.clock import Contender, Times, take_turns
from bitcompress.measure.report import machine, versions
from bitcompress.memory import keep_large_blocks

Progress = Callable[[str, int, int], None]
PACKAGES = ("onnx", "onnxruntime")


def chosen_levels(wanted: Sequence[str]) -> list[str]:
    """The levels of this machine, or those asked for.

    Raises: Unavailable without native code, UsageError for a level that this machine lacks.
    """
    kernels = native.kernels()
    if kernels is None:
        raise Unavailable(f"there are no native kernels to time: {native.why_not()}")
    known = list(kernels.isa_levels())
    for name in wanted:
        if name not in known:
            raise UsageError(f"--level {name}: this machine has {', '.join(known)}")
    return [name for name in known if not wanted or name in wanted]


def bench_kernels(
    cases: Sequence[Case],
    *,
    levels: Sequence[str],
    threads: int,
    repeats: int,
    seconds: float,
    tries: int = 12,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The report: machine, peaks, and a row for each case and level.

    Units of a row: us, Gop/s (2 x multiply-accumulates a second); a ratio is the other's time over
    ours. Raises: GateError where two levels give different results.
    """
    kernels = native.kernels()
    assert kernels is not None
    keep_large_blocks()
    before = torch.get_num_threads()
    in_use = kernels.isa()
    torch.set_num_threads(threads)
    try:
        peaks = measure_peaks(kernels, threads, tries)
        rows: list[dict[str, Any]] = []
        for number, case in enumerate(cases):
            build = OPERATORS[case.op]
            if isinstance(build, str):
                rows.append(_absent(case, threads, build))
            else:
                with torch.inference_mode():
                    work = build(case, threads)
                    rows += _rows(case, work, peaks, levels, repeats, seconds)
            if progress is not None:
                progress(f"bench {case.name}", number + 1, len(cases))
    finally:
        torch.set_num_threads(before)
        kernels.set_isa(in_use)
    return {
        "bench": "kernels", "machine": {**machine(), "threads": threads},
        "versions": all_versions(),
        "held_to": os.environ.get("ONEDNN_MAX_CPU_ISA", ""), "levels": list(levels),
        "repeats": repeats, "date": time.strftime("%Y-%m-%d"), "peaks": peaks.to_json(),
        "missing": _missing(rows), "rows": rows,
    }  # fmt: skip


def _rows(
    case: Case, work: Work, peaks: Peaks, levels: Sequence[str], repeats: int, seconds: float
) -> list[dict[str, Any]]:
    kernels: Any = native.kernels()
    contenders = []
    first: Tensor | None = None
    for level in levels:
        kernels.set_isa(level)
        run = work.make()
        made = run().clone()
        if first is not None and not torch.equal(first, made):
            raise GateError(f"{case.name}: {level} and {levels[0]} give different results")
        first = made if first is None else first
        contenders.append(Contender(level, run, partial(kernels.set_isa, level)))
    for column, ways in work.rivals.items():
        if not isinstance(ways, str):
            contenders += [Contender(f"{column}/{way}", run) for way, run in ways.items()]
    times = take_turns(contenders, repeats=repeats, seconds=seconds)
    return [_row(case, work, peaks, level, times) for level in levels]


def _row(
    case: Case, work: Work, peaks: Peaks, level: str, times: dict[str, Times]
) -> dict[str, Any]:
    mine = times[level]
    others: dict[str, dict[str, float]] = {}
    for column in COLUMNS:
        ways = work.rivals[column]
        if not isinstance(ways, str):
            others[column] = {way: 1e6 * times[f"{column}/{way}"].best for way in ways}
    us = 1e6 * mine.best
    fraction, gops, peak = _fraction(case, work, peaks, level, mine.best)
    return {
        **_head(case, peaks.threads), "level": level, "us": us, "median_us": 1e6 * mine.median,
        "spread": mine.spread, "repeats": mine.repeats, "load": round(os.getloadavg()[0], 2),
        "ratio": {
            column: min(others[column].values()) / us if column in others else None
            for column in COLUMNS
        },
        "others_us": others, "gops": gops, "ops_per_byte": 2 * work.macs / work.bytes,
        "peak": peak, "peak_fraction": fraction,
        "absent": {c: ways for c, ways in work.rivals.items() if isinstance(ways, str)},
    }  # fmt: skip


def _fraction(
    case: Case, work: Work, peaks: Peaks, level: str, seconds: float
) -> tuple[float, float, str]:
    """How near to the peak, Gop/s, and which peak; bytes where there are no products."""
    if not work.macs:
        rate = work.bytes / seconds / 1e9
        most, name = peaks.reading(work.bytes)
        return rate / most, 0.0, f"{name} {most:.0f} GB/s"
    gops = 2 * work.macs / seconds / 1e9
    top, name = peaks.of(level, case.weight_bits, case.act_bits)
    return gops / top, gops, f"{name} {top:.0f} Gop/s"


def _head(case: Case, threads: int) -> dict[str, Any]:
    return {
        "op": case.op, "weight_bits": case.weight_bits, "act_bits": case.act_bits,
        "shape": case.shape, "sizes": list(case.sizes), "of": case.of, "threads": threads,
    }  # fmt: skip


def _absent(case: Case, threads: int, reason: str) -> dict[str, Any]:
    """The row of an operator that the library lacks."""
    return {
        **_head(case, threads), "level": None, "us": None,
        "ratio": dict.fromkeys(COLUMNS), "peak_fraction": None, "absent": {"us": reason},
    }  # fmt: skip


def _missing(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Columns that no row has, each with the reason."""
    timed = [row for row in rows if row["us"] is not None]
    found = {}
    for column in COLUMNS:
        reasons = {row["absent"].get(column) for row in timed}
        if timed and None not in reasons:
            found[column] = str(min(reason for reason in reasons if reason))
    return found


def all_versions() -> dict[str, str]:
    """Versions of what a figure depends on, the others included."""
    from importlib.metadata import PackageNotFoundError, version

    found = versions()
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
