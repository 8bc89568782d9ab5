"""How long each layer of a model takes, in a run of the whole model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bitcompress.graph.capture import as_inputs
from bitcompress.graph.intercept import Rewritten
from bitcompress.measure.clock import Contender, take_turns

TOGETHER = 1.0
"""Seconds that the runs of a small model go on for."""


def layer_times(
    model: nn.Module, example: Any, repeats: int = 3, together: float = TOGETHER
) -> dict[str, float]:
    """The best time of each module that runs, by its name in the float model, after one warm-up.

    There are `repeats` runs, and more until they have taken `together` seconds.

    The model runs as it is written, module by module: what a program fuses has no time of its own.
    A module that runs more than once has the sum of its runs.
    Units: ms.
    """
    net = model.net if isinstance(model, Rewritten) else model
    args, kwargs = as_inputs(example)
    runs: list[dict[str, float]] = []
    handles = []

    def run() -> None:
        runs.append({})
        model(*args, **kwargs)

    def clocks(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        started: list[float] = []

        def begin(module: nn.Module, args: Any) -> None:
            started.append(time.perf_counter())

        def end(module: nn.Module, args: Any, out: Any) -> None:
            took = 1000 * (time.perf_counter() - started.pop())
            runs[-1][name] = runs[-1].get(name, 0.0) + took

        return begin, end

    for name, module in net.named_modules():
        if name:
            begin, end = clocks(name)
            handles += [
                module.register_forward_pre_hook(begin), module.register_forward_hook(end)
            ]  # fmt: skip
    try:
        with torch.no_grad():
            once = Contender("model", run)
            take_turns([once], repeats=repeats, seconds=math.inf, together=together)
    finally:
        for handle in handles:
            handle.remove()
    warm = runs[1:]
    return {name: min(taken.get(name, math.inf) for taken in warm) for name in warm[-1]}
