"""Time of float and packed model, one after the other in turn, in one process."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from bitcompress.graph.capture import as_inputs
from bitcompress.measure.clock import Contender, Times, take_turns

TOGETHER = 2.0
"""Seconds that the rounds of a small model go on for: five of one millisecond say nothing."""

UNEVEN, WAITED = 0.5, 0.1
"""How far a median may lie above its best, and the time without a processor, of good figures."""


def measure_speed(
    float_model: nn.Module | None,
    packed: nn.Module,
    example: Any,
    *,
    repeats: int = 5,
    together: float = TOGETHER,
) -> dict[str, Any]:
    """Milliseconds of one forward, best and median of `repeats` or more after one warm-up each.

    The models take turns, so that what else the machine does meets both alike, and small ones go on
    until all have had `together` seconds. Where the machine was plainly busy, `rough` says why the
    figures are not to be built on.
    Units: ms. Returns: float_ms and packed_ms (best), their medians and spreads, ratio (of the
    best), threads, input, repeats, load (of the machine, over the last minute), rough (or nothing).
    """
    args, kwargs = as_inputs(example)
    models = {"packed": packed} if float_model is None else {"float": float_model, "packed": packed}
    contenders = [
        Contender(name, partial(model, *args, **kwargs)) for name, model in models.items()
    ]
    load = os.getloadavg()[0]
    with torch.no_grad():
        times = take_turns(contenders, repeats=repeats, seconds=math.inf, together=together)
    figures: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "input": [list(t.shape) for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)],
        "repeats": times["packed"].repeats,
        "load": round(load, 2),
        "rough": rough(times, torch.get_num_threads(), load),
    }
    for name, taken in times.items():
        figures[f"{name}_ms"] = 1000 * taken.best
        figures[f"{name}_median_ms"] = 1000 * taken.median
        figures[f"{name}_spread"] = taken.spread
    if "float" in models:
        figures["ratio"] = figures["float_ms"] / figures["packed_ms"]
    return figures


def rough(times: Mapping[str, Times], threads: int, load: float) -> str | None:
    """Why times are not to be built on, as part of a sentence; None where nothing speaks against.

    They are not where more wanted the processors than there are, where the middle run of a model
    took half as long again as its best, or where the process had to wait for a processor.
    """
    processors = processors_of_this()
    if threads > processors:
        return f"{threads} threads shared {processors} processor(s)"
    if load > (os.cpu_count() or processors) + 0.5:
        return f"the machine had a load of {load:.1f} on {os.cpu_count()} processor(s)"
    for name, taken in times.items():
        if taken.median > (1 + UNEVEN) * taken.best:
            return f"the middle run of {name} took {taken.median / taken.best:.1f} times its best"
        if taken.waited > WAITED:
            return f"{name} waited for a processor in {100 * taken.waited:.0f} % of its time"
    return None


def processors_of_this() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
