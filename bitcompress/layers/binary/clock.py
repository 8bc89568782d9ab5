"""The time group of the run at hand, for every time-aware block of a model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bitcompress.errors import DataError, UsageError
from bitcompress.native import is_traced
from bitcompress.packed.tape import recorder

KINDS = (torch.int64, torch.int32, torch.int16, torch.uint8)


def group_index(t: Tensor, groups: int, steps: int) -> Tensor:
    """The group of each timestep: clamp(t K // T, 0, K - 1) in whole numbers.

    Source: BI-DiffSR (NeurIPS 2024), section 3.4, 0-based as its code counts.
    """
    return torch.clamp(t.long() * groups // steps, 0, groups - 1)


Span = tuple[float, float]


def level_edges(groups: int, span: Span) -> list[float]:
    """Where noise levels go from group to group: evenly in their logarithm, as float32."""
    low, high = span
    edges = [low * (high / low) ** (k / groups) for k in range(1, groups)]
    return torch.tensor(edges, dtype=torch.float32).tolist()


def level_index(level: Tensor, edges: list[float]) -> Tensor:
    """The group of each noise level: how many edges it has reached; exact, whatever runs it."""
    index = torch.zeros_like(level, dtype=torch.int64)
    for edge in edges:
        index = index + (level >= edge).long()
    return index


class Clock(nn.Module):
    """Holds the time group (N,) of each sample of this run; without parameters, shared by blocks.

    groups: how many tables a time-aware block has; steps: timesteps t are 0 to steps - 1. span: of
    models that are told a noise level in place of a timestep: the lowest and the highest, steps
    then counts for nothing; levels beyond it are of the outer groups.
    """

    def __init__(self, groups: int, steps: int, span: Span | None = None) -> None:
        super().__init__()
        if groups < 1 or steps < groups:
            raise UsageError(
                f"{groups} time groups of {steps} timesteps: give at least one timestep to a group"
            )
        if span is not None and not 0 < span[0] < span[1] < math.inf:
            raise UsageError(
                f"noise levels of {span[0]} to {span[1]}: give two rising positive ones"
            )
        self.groups, self.steps, self.span = groups, steps, span
        self.now: Tensor | None = None

    def set(self, t: Tensor | float) -> None:
        """The timestep of this run, or its noise level: one number or one a sample.

        Raises: DataError if it is no whole number, has another shape, or lies out of range.
        """
        if isinstance(t, int | float) and not isinstance(t, bool):
            t = torch.tensor([t])
        if not isinstance(t, Tensor) or (t.dtype not in KINDS and not t.is_floating_point()):
            kind = t.dtype if isinstance(t, Tensor) else type(t).__name__
            raise DataError(f"the timestep is {kind}: give whole numbers, torch.int64")
        if t.dim() == 2 and t.shape[1] == 1:
            t = t[:, 0]
        if t.dim() > 1 or t.numel() == 0:
            raise DataError(
                f"the timestep has the shape {tuple(t.shape)}: give one number, or one a sample"
            )
        t = t.reshape(-1)
        if not is_traced():
            self._check(t)
        if self.span is None:
            self.now = group_index(t, self.groups, self.steps)
        else:
            self.now = level_index(t.float(), level_edges(self.groups, self.span))

    def _check(self, t: Tensor) -> None:
        """Raise DataError for numbers that are no timestep, or no noise level."""
        if t.is_floating_point() and not bool(torch.isfinite(t).all()):
            raise DataError("the timestep is NaN or infinite: give finite numbers")
        low, high = (float(part) for part in torch.aminmax(t))
        if self.span is not None:
            if low < 0:
                raise DataError(f"a noise level of {low:g} is none: give 0 or more")
            return
        if t.is_floating_point() and not bool((t == t.round()).all()):
            raise DataError(
                f"a timestep is {float(t[t != t.round()][0]):g}: give whole numbers, or say which "
                "range noise levels have (blocks.time_span) and make the model again"
            )
        if low < 0 or high >= self.steps:
            raise DataError(
                f"a timestep of {low if low < 0 else high:.0f} is out of range: the model was made "
                f"for 0 to {self.steps - 1}"
            )

    def index(self, samples: int) -> Tensor:
        """The group of each sample. Returns: (samples,) int64.

        Where a model cuts each sample into pieces that lie side by side, they share its time.
        Raises: DataError if no timestep was set, or one for another number of samples.
        """
        if self.now is None:
            raise DataError("no timestep was given: run the whole model, or set the clock first")
        given = self.now.numel()
        if given == 1:
            return self.now.expand(samples)
        if samples % given:
            raise DataError(f"{given} timesteps were given for {samples} samples")
        return self.now if given == samples else self.now.repeat_interleave(samples // given)

    def attach(self, model: nn.Module, argument: str) -> RemovableHandle:
        """Reads the timestep from the argument of that name whenever `model` runs.

        Returns: the handle that takes the hook off. Raises: UsageError without such an argument.
        """
        return model.register_forward_pre_hook(self.hook(model, argument), with_kwargs=True)

    def hook(
        self, model: nn.Module, argument: str
    ) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        """What `attach` registers: a hook that finds the argument in a call of `model`."""
        names = list(inspect.signature(model.forward).parameters)
        if argument not in names:
            raise UsageError(
                f"{type(model).__name__}.forward has no argument {argument!r}: "
                f"it has {', '.join(names) or 'none'}"
            )
        return TimeReader(self, argument, names.index(argument))

    def extra_repr(self) -> str:
        """Groups and steps, for print(model)."""
        counted = f"steps={self.steps}" if self.span is None else f"span={self.span}"
        return f"groups={self.groups}, {counted}"


class TimeReader:
    """The hook: a class, so that a model with it can be copied and stored."""

    def __init__(self, clock: Clock, argument: str, place: int) -> None:
        self.clock, self.argument, self.place = clock, argument, place

    def __call__(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if recorder() is not None and not is_traced():
            return  # who writes a run down has set the clock before it
        if self.argument in named:
            self.clock.set(named[self.argument])
        elif self.place < len(given):
            self.clock.set(given[self.place])
        else:
            raise DataError(f"the model was run without its timestep {self.argument!r}")
