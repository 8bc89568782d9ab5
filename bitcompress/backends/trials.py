"""Inputs to write a model down with, and to try its file on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from bitcompress.artifact import Source
from bitcompress.backends.capture import Captured
from bitcompress.errors import CaptureError
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.timed import clock_of


def example_of(example: Any, source: Source | None, model: Rewritten) -> Any:
    """The inputs that were given, a timestep among them in whole numbers; or those of the task."""
    timed = clock_of(model)
    if example is not None:
        name = "" if timed is None else timed[1].name
        given = example.get(name) if isinstance(example, Mapping) else None
        told = timed is not None and getattr(timed[0], "span", None) is not None
        if isinstance(given, Tensor) and given.is_floating_point() and not told:
            # Those of --input are from 0 to 1: a share of all timesteps.
            most = timed_steps(model) if float(given.max()) <= 1 else 1
            return {**example, name: (given.flatten() * most).long()}
        return example
    generator = torch.Generator().manual_seed(0)
    if source is not None and source.task == "diffusion":
        noisy, condition = torch.rand(2, 1, 3, 64, 64, generator=generator) * source.image_range
        t = torch.tensor([timed_steps(model) * 2 // 3])
        return {"input": noisy, "input1": condition, "t" if timed is None else timed[1].name: t}
    if source is not None and (source.scale is not None or source.task == "classify"):
        side = 32 if source.task == "classify" else 64
        return (torch.rand(1, 3, side, side, generator=generator) * source.image_range,)
    raise CaptureError("the model's inputs are not known: give an example (--input NAME=1x3x64x64)")


def timed_steps(model: Rewritten) -> int:
    """How many timesteps a model has; 1 where its clock does not tell."""
    timed = clock_of(model)
    return int(getattr(timed[0], "steps", 1)) if timed else 1


def trials(captured: Captured) -> Iterator[dict[str, Tensor]]:
    """Inputs of two sizes, and two batches; one size where sizes are fixed."""
    step = captured.sizes.step
    generator = torch.Generator().manual_seed(1)
    yield captured.inputs
    batch = 1 if captured.sizes.batch else None
    if step == 0:
        yield {
            n: _shuffled(v, generator)[:batch] if v.dim() else v for n, v in captured.inputs.items()
        }
        return
    grown = {}
    for name, value in captured.inputs.items():
        made = value[:batch] if value.dim() else value
        # Another timestep or noise level, where an input is one number a sample or counts.
        if value.is_floating_point():
            made = made / 2 if value.dim() <= 1 else made
        elif value.dtype != torch.bool:
            made = made // 2
        if value.dim() == 4:
            more = max(step, 8)
            made = torch.nn.functional.pad(
                made, (0, more + (15 if step == 1 else 0), 0, 2 * more), "circular"
            )
        grown[name] = made
    yield grown


def _shuffled(value: Tensor, generator: torch.Generator) -> Tensor:
    """Other numbers of the same range: samples in another order, the last axis from its end."""
    return value[torch.randperm(len(value), generator=generator)].flip(-1)
