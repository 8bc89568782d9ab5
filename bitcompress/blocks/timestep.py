"""The clock of a model: which argument is its timestep, how many there are, who reads it."""

from __future__ import annotations

from torch import nn

from bitcompress.blocks.policy import BlockPolicy
from bitcompress.errors import RecipeError
from bitcompress.graph.timed import TimeInput, time_input
from bitcompress.layers.binary import Clock

STEPS = ("time_steps", "timesteps", "num_timesteps", "num_train_timesteps")
"""Attributes in which models keep how many timesteps they have."""


def timestep(model: nn.Module, policy: BlockPolicy) -> TimeInput | None:
    """The timestep's argument; None where no block needs it and the model has none.

    Raises: RecipeError where blocks have time groups and the model has no timestep.
    """
    found = time_input(model, policy.time_arg)
    if found is None and policy.time_groups > 1:
        raise RecipeError(
            f"blocks have {policy.time_groups} time groups, and {type(model).__name__}.forward has "
            "no timestep among its arguments: name it (blocks.time_arg), or set "
            "blocks.time_groups to 1"
        )
    return found


def clock_for(model: nn.Module, policy: BlockPolicy) -> Clock | None:
    """A clock of as many groups as the policy has; None where it has one group.

    Raises: RecipeError where nothing says how many timesteps there are.
    """
    if policy.time_groups == 1:
        return None
    if policy.time_span is not None:
        return Clock(policy.time_groups, policy.time_groups, policy.time_span)
    steps = policy.time_steps
    for name in STEPS if steps is None else ():
        value = getattr(model, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            steps = value
            break
    if steps is None:
        raise RecipeError(
            "nothing says how many timesteps the model has: set blocks.time_steps, e.g. 1000, "
            "or blocks.time_span, where it is told noise levels"
        )
    if steps < policy.time_groups:
        raise RecipeError(
            f"{policy.time_groups} time groups of {steps} timesteps: set blocks.time_groups to "
            f"{steps} or fewer"
        )
    return Clock(policy.time_groups, steps)
