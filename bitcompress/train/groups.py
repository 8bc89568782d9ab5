"""Which parameters move together: a learning rate and a weight decay for each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from bitcompress.errors import RecipeError


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate and a weight decay."""

    params: tuple[nn.Parameter, ...]
    lr: float
    weight_decay: float = 0.0


def groups_of(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    rates: Sequence[tuple[str, float]] = (),
) -> list[Group]:
    """All parameters of a model that a small step can move, in groups.

    rates: (pattern of names, factor on the learning rate), the first that fits; factor 0 freezes.
    Only weights of products decay: what is called `weight` and has two axes or more. Thresholds,
    slopes, norms and tables by time do not, or they would be pulled away from what they measure.
    Raises: RecipeError for a pattern that names nothing, or where nothing can move.
    """
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    used: set[str] = set()
    for name, param in model.named_parameters():
        movable = param.device.type != "meta" and param.dtype in (torch.float32, torch.float64)
        if not movable or not param.requires_grad:
            continue
        pattern, factor = next((r for r in rates if fnmatchcase(name, r[0])), ("", 1.0))
        used.add(pattern)
        if factor:
            decays = name.rsplit(".", 1)[-1] == "weight" and param.dim() >= 2
            found.setdefault((lr * factor, weight_decay if decays else 0.0), []).append(param)
    unused = [pattern for pattern, _ in rates if pattern not in used]
    if unused:
        raise RecipeError(f"rates {unused} name no parameter of {type(model).__name__}")
    if not found:
        raise RecipeError(f"{type(model).__name__} has no parameter that training could move")
    return [Group(tuple(params), *key) for key, params in found.items()]
