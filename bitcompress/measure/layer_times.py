"""How long each layer of a model takes, in a run of the whole model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bitcompress.graph.capture import as_inputs
from bitcompress.graph.intercept import Rewritten

TOGETHER, MOST = 1.0, 100
"""Seconds that the runs of a small model go on for, and the most runs of it."""


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
    taken: dict[str, float] = {}
    handles = []

    def clocks(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        started: list[float] = []

        def begin(module: nn.Module, args: Any) -> None:
            started.append(time.perf_counter())

        def end(module: nn.Module, args: Any, out: Any) -> None:
            taken[name] = taken.get(name, 0.0) + 1000 * (time.perf_counter() - started.pop())

        return begin, end

    for name, module in net.named_modules():
        if name:
            begin, end = clocks(name)
            handles += [
                module.register_forward_pre_hook(begin), module.register_forward_hook(end)
            ]  # fmt: skip
    args, kwargs = as_inputs(example)
    best: dict[str, float] = {}
    try:
        with torch.no_grad():
            model(*args, **kwargs)
            runs, begun = 0, time.perf_counter()
            while runs < repeats or (runs < MOST and time.perf_counter() - begun < together):
                runs += 1
                taken.clear()
                model(*args, **kwargs)
                best = {k: min(v, best.get(k, v)) for k, v in taken.items()}
    finally:
        for handle in handles:
            handle.remove()
    return best
