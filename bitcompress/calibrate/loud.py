"""Which of the layers kept wide still make too much of the error to be on a grid at all.

Tuning teaches weights to live with coarse grids, and the error of the narrow layers falls by an
order of magnitude. What an 8-bit layer adds stays. So a wide layer is weighed alone, before tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.calibrate.run import grids, quantizers
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.capture import as_inputs
from bitcompress.graph.intercept import Rewritten


def loud_layers(
    model: Rewritten, layers: Mapping[str, nn.Module], batch: Any, share: float
) -> list[str]:
    """Those of `layers` that alone make more than `share` of the whole model's squared error.

    Errors are those of the output against the model with all grids off, on one batch. Layers are
    tried together and halved while the group is loud, so quiet layers cost no run of their own.
    """
    if not layers:
        return []
    args, kwargs = as_inputs(batch)
    everything = quantizers(model)

    def output(names: Sequence[str]) -> Tensor:
        own = [q for name in names for q in quantizers(layers[name])]
        with grids(everything, on=False), grids(own, on=True), torch.no_grad():
            return _joined(model(*args, **kwargs))

    def error(names: Sequence[str]) -> float:
        return float((output(names) - clean).square().sum())

    def search(names: list[str]) -> list[str]:
        if error(names) <= limit:
            return []
        if len(names) == 1:
            return names
        half = len(names) // 2
        return search(names[:half]) + search(names[half:])

    clean = output([])
    with torch.no_grad():
        limit = share * float((_joined(model(*args, **kwargs)) - clean).square().sum())
    return search(list(layers))


def _joined(out: Any) -> Tensor:
    """All numbers of an output, however nested, as one row of float64; infinities tell nothing."""
    parts = [
        torch.nan_to_num(t.detach().double().flatten(), 0.0, 0.0, 0.0)
        for t in tensors_of(out)
        if not t.is_complex()
    ]
    return torch.cat([torch.zeros(0, dtype=torch.float64), *parts])
