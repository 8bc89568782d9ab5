"""Networks that a recipe builds by name, without a checkpoint: its own target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from bitcompress.errors import RecipeError
from bitcompress.models import MODELS
from bitcompress.models.bidiffsr import PAPER, TINY, BiDiffSR


def _sized(build: Callable[..., nn.Module], size: Mapping[str, Any]) -> Callable[..., nn.Module]:
    return lambda **config: build(**{**size, **config})


TARGETS: dict[str, Callable[..., nn.Module]] = {
    "bidiffsr": _sized(BiDiffSR, PAPER),
    "bidiffsr-tiny": _sized(BiDiffSR, TINY),
}
"""Name -> a function of hyper-parameters that builds the float network."""


def builder_of(arch: str) -> Callable[..., nn.Module] | None:
    """What builds the network of that name, of `MODELS` or `TARGETS`; None for another name."""
    return MODELS[arch].build if arch in MODELS else TARGETS.get(arch)


def build_target(name: str, config: Mapping[str, Any] | None = None) -> nn.Module:
    """The float network of a name, with fresh weights.

    Raises: RecipeError for an unknown name or a hyper-parameter that it does not have.
    """
    if name not in TARGETS:
        raise RecipeError(f"target {name!r} is unknown: give one of {', '.join(TARGETS)}")
    try:
        return TARGETS[name](**(config or {}))
    except TypeError as error:
        raise RecipeError(f"target {name!r} cannot be built so ({error}): see its class") from error
