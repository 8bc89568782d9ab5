"""Time of float and packed model, one after the other in turn, in one process."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Any

import torch
from torch import nn

from bitcompress.graph.capture import as_inputs
from bitcompress.measure.clock import Contender, take_turns


def measure_speed(
    float_model: nn.Module | None, packed: nn.Module, example: Any, *, repeats: int = 5
) -> dict[str, Any]:
    """Milliseconds of one forward, best and median of `repeats` after one warm-up each.

    The models take turns, so that what else the machine does meets both alike. The spread is the
    distance from best to worst over the median: a large one says that the figures are rough.
    Units: ms. Returns: float_ms and packed_ms (best), their medians and spreads, ratio (of the
    best), threads, input, repeats, load (of the machine, over the last minute).
    """
    args, kwargs = as_inputs(example)
    models = {"packed": packed} if float_model is None else {"float": float_model, "packed": packed}
    contenders = [
        Contender(name, partial(model, *args, **kwargs)) for name, model in models.items()
    ]
    with torch.no_grad():
        times = take_turns(contenders, repeats=repeats, seconds=math.inf)
    figures: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "input": [list(t.shape) for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)],
        "repeats": repeats,
        "load": round(os.getloadavg()[0], 2),
    }
    for name, taken in times.items():
        figures[f"{name}_ms"] = 1000 * taken.best
        figures[f"{name}_median_ms"] = 1000 * taken.median
        figures[f"{name}_spread"] = taken.spread
    if "float" in models:
        figures["ratio"] = figures["float_ms"] / figures["packed_ms"]
    return figures
