"""The optimizers by name, with a learning rate and a weight decay of each group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from bitcompress.errors import RecipeError
from bitcompress.train.config import FitConfig
from bitcompress.train.groups import Group

FUSED = (torch.float32, torch.float64)
"""What the fused forms take on every device; other numbers go the plain way."""


def _adam(groups: list[dict[str, Any]], config: FitConfig, fused: bool) -> Optimizer:
    return Adam(groups, betas=config.betas, fused=fused)


def _adamw(groups: list[dict[str, Any]], config: FitConfig, fused: bool) -> Optimizer:
    return AdamW(groups, betas=config.betas, fused=fused)


def _sgd(groups: list[dict[str, Any]], config: FitConfig, fused: bool) -> Optimizer:
    nesterov = config.momentum > 0
    return SGD(groups, lr=1.0, momentum=config.momentum, nesterov=nesterov, fused=fused)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], FitConfig, bool], Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
}


def optimizer_of(groups: Sequence[Group], config: FitConfig) -> Optimizer:
    """The optimizer of a run. Raises: RecipeError for a name that is not in OPTIMIZERS."""
    if config.optimizer not in OPTIMIZERS:
        raise RecipeError(f"optimizer {config.optimizer!r} is none of {', '.join(OPTIMIZERS)}")
    wanted = [
        {"params": list(g.params), "lr": g.lr, "weight_decay": g.weight_decay} for g in groups
    ]
    fused = all(p.dtype in FUSED for g in groups for p in g.params)
    return OPTIMIZERS[config.optimizer](wanted, config, fused)
