"""A teacher is switched to what a teacher is, and afterwards left as it was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(models: Sequence[nn.Module]) -> Iterator[None]:
    """Models in eval mode whose parameters need no gradients; modes and needs come back after."""
    training = [(m, m.training) for model in models for m in model.modules()]
    needs = [(p, p.requires_grad) for model in models for p in model.parameters()]
    try:
        for model in models:
            model.eval().requires_grad_(False)
        yield
    finally:
        for module, mode in training:
            module.training = mode
        for param, needed in needs:
            param.requires_grad_(needed)
