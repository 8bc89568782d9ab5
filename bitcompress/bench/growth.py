"""How time and memory grow with the picture: each model in a process of its own, size after size.

A process of its own, because the memory that was needed is told for a whole process only.
"""

from __future__ import annotations

import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bitcompress.measure.stages import Stages
from bitcompress.memory import keep_large_blocks

SIDES = (64, 128, 256, 512, 1024)
FLOAT_UP_TO = 512
TRIES, FEWEST, QUICK = 6, 2, 2.0
"""Runs at each size, of which the best counts; only quick ones, in seconds, have all TRIES."""
UNTIL_PROVED = 5
"""Runs of a packed model: its program runs alone from the fourth of a size on."""

Progress = Callable[[str, int, int], None]


def alone(
    model: nn.Module, sides: Sequence[int], example: Callable[[int], Any], threads: int
) -> Iterator[dict[str, Any]]:
    """Time and memory of one model at each size, smallest first, in this process.

    Units: ms; rss_mb is the most memory that the process held, MB (10^6 bytes).
    """
    keep_large_blocks()
    torch.set_num_threads(threads)
    stages = Stages()
    fewest = FEWEST if getattr(model, "programs", None) is None else UNTIL_PROVED
    with torch.inference_mode():
        model(example(min(sides)))
        for side in sorted(sides):
            x = example(side)
            taken: list[float] = []
            with stages(str(side)):
                while len(taken) < (TRIES if taken and min(taken) < QUICK else fewest):
                    start = time.perf_counter()
                    model(x)
                    taken.append(time.perf_counter() - start)
            rss = stages.rows[-1]["peak_rss_mb"]
            yield {"side": side, "pixels": side * side, "ms": 1000 * min(taken), "rss_mb": rss}


def measure_alone(command: Sequence[str], limit: float) -> tuple[list[dict[str, Any]], str]:
    """Run a process that prints a row a line. Returns: the rows, and why there are no more."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        # What came before the end is bytes, whatever was asked for.
        return _rows((error.stdout or b"").decode()), f"took longer than {limit:g} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return _rows(done.stdout), last[:240]
    return _rows(done.stdout), ""


def _rows(text: str) -> list[dict[str, Any]]:
    """The whole lines of what a process printed."""
    return [json.loads(line) for line in text.split("\n")[:-1] if line.startswith("{")]


def exponent(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """How a figure grows with the pixels: 1 is linear; from the two largest sizes."""
    if len(rows) < 2 or not all(row[key] > 0 for row in rows[-2:]):
        return None
    small, large = rows[-2:]
    return math.log(large[key] / small[key]) / math.log(large["pixels"] / small["pixels"])
