"""Training leaves a model's switches as it found them: training mode, and what needs gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Whatever happens inside, every module's mode and every parameter's need are as before."""
    training = [(m, m.training) for model in models for m in model.modules()]
    needs = [(p, p.requires_grad) for model in models for p in model.parameters()]
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode
        for param, needed in needs:
            param.requires_grad_(needed)


@contextmanager
def frozen(models: Sequence[nn.Module]) -> Iterator[None]:
    """Models in eval mode whose parameters need no gradients: teachers."""
    with modes_kept(*models):
        for model in models:
            model.eval().requires_grad_(False)
        yield
