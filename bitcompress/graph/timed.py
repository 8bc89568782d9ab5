"""The timestep of a diffusion model, found among its arguments and told to all who depend on it.

Nothing is threaded through the user's forward: a hook of the outermost module reads the argument
by its name before each run and sets a clock that the time-aware blocks share. So any forward
works, whatever it does with its timestep, in mixed batches too.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from torch.utils.hooks import RemovableHandle

from bitcompress.errors import DataError, RecipeError

TIME_NAMES = ("t", "time", "timestep", "timesteps", "sigma", "noise_level")
"""Names by which models call their timestep, likelier ones first."""

Keyed = inspect.Parameter.KEYWORD_ONLY
Placed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Settable(Protocol):
    """A clock: what is told the timesteps of a run before it begins."""

    def set(self, value: Any) -> None:
        """Take the timesteps of a run, one a sample or one for all."""


@dataclass(frozen=True)
class TimeInput:
    """The argument of a model's forward that is its timestep."""

    name: str
    position: int | None
    """Its place among the positional arguments; None where only its keyword is taken."""
    default: Any = inspect.Parameter.empty

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The timestep that a call is given. Raises: DataError where it is given none."""
        if self.name in kwargs:
            return kwargs[self.name]
        if self.position is not None and self.position < len(args):
            return args[self.position]
        if self.default is inspect.Parameter.empty or self.default is None:
            raise DataError(
                f"the model is run without its timestep {self.name!r}, which its blocks need: "
                f"give {self.name}=, one integer a sample"
            )
        return self.default


def time_input(net: nn.Module, name: str | None = None) -> TimeInput | None:
    """The timestep among the arguments of a model's forward: of that name, or of a usual one.

    Returns: None where no name is given and none of the usual ones is there.
    Raises: RecipeError where the forward has no argument of the name given.
    """
    parameters = inspect.signature(net.forward).parameters
    wanted = TIME_NAMES if name is None else (name,)
    for found in wanted:
        parameter = parameters.get(found)
        if parameter is not None and parameter.kind in (*Placed, Keyed):
            placed = [p.name for p in parameters.values() if p.kind in Placed]
            place = placed.index(found) if found in placed else None
            return TimeInput(found, place, parameter.default)
    if name is None:
        return None
    raise RecipeError(
        f"{type(net).__name__}.forward has no argument {name!r} for the timestep; it takes "
        f"{', '.join(parameters) or 'nothing'}: name one of them (--time-arg)"
    )


class _SetsClock:
    """A forward pre-hook that tells a clock the timestep of the run that begins."""

    def __init__(self, clock: Settable, source: TimeInput) -> None:
        self.clock, self.source = clock, source

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.clock.set(self.source.of(args, kwargs))


def set_by(model: nn.Module, clock: Settable, source: TimeInput) -> RemovableHandle:
    """From now on each run of `model` sets the clock first; a deep copy sets its own clock."""
    return model.register_forward_pre_hook(_SetsClock(clock, source), with_kwargs=True)


def clock_of(model: nn.Module) -> tuple[Settable, TimeInput] | None:
    """The clock that runs of a model set, and by which argument; None where they set none."""
    for hook in model._forward_pre_hooks.values():
        if isinstance(hook, _SetsClock):
            return hook.clock, hook.source
    return None
