"""Running batches through a model whose grids are switched off, with hooks that look on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from bitcompress.graph.capture import as_inputs
from bitcompress.quant.uniform import UniformQuantizer


def quantizers(model: nn.Module) -> list[UniformQuantizer]:
    """Every quantizer of a model or layer."""
    return [module for module in model.modules() if isinstance(module, UniformQuantizer)]


@contextmanager
def grids(chosen: Iterable[UniformQuantizer], *, on: bool) -> Iterator[None]:
    """Have these quantizers on or off inside; each is afterwards as it was."""
    before = [(quantizer, quantizer.enabled) for quantizer in chosen]
    try:
        for quantizer, _ in before:
            quantizer.enabled = on
        yield
    finally:
        for quantizer, enabled in before:
            quantizer.enabled = enabled


def run_watched(
    model: nn.Module,
    batches: Iterable[Any],
    hooks: Iterable[RemovableHandle],
    *,
    on: bool,
    after: Callable[[int], None] | None = None,
) -> int:
    """Run each batch with all grids on or off, and take the hooks off at the end.

    `after` hears the number of batches run so far. Returns: how many there were.
    """
    handles, count = list(hooks), 0
    try:
        with grids(quantizers(model), on=on), torch.no_grad():
            for batch in batches:
                args, kwargs = as_inputs(batch)
                model(*args, **kwargs)
                count += 1
                if after is not None:
                    after(count)
    finally:
        for handle in handles:
            handle.remove()
    return count
