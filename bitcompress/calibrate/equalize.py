"""Channel equalisation: input channels are brought to one size before they share a grid.

A grid of four levels fits one spread. Where the channels of an input differ in spread or centre,
each is normalised by its own mean and deviation; the weight absorbs the deviation, the bias the
mean, so the integer sum stays one sum and costs nothing more.
Source: the equivalent transform of SmoothQuant and OmniQuant, with the shift of Outlier
Suppression+. Differs: the transform lives in the layer's own cut into codes, so it needs no
neighbour to fold into.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.calibrate.run import check_numbers, run_watched
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.rewrite import quant_layers
from bitcompress.layers import QuantConv2d, QuantLinear

SMALLEST = 1e-2
"""The least stretch, as a share of the mean stretch: dead channels stay finite."""


def equalize(
    model: Rewritten, batches: Iterable[Any], names: Iterable[str], *, strength: float = 1.0
) -> None:
    """Set stretch and shift of the named layers from the mean and deviation of their inputs.

    strength 1 brings every channel to one deviation, 0 leaves them as they are.
    Raises: DataError naming a layer whose inputs are not finite.
    """
    layers = quant_layers(model)
    chosen = {n: layers[n] for n in names if isinstance(layers.get(n), QuantLinear | QuantConv2d)}
    moments = {name: _Moments() for name in chosen}
    hooks = [layer.register_forward_pre_hook(moments[name].hook) for name, layer in chosen.items()]
    run_watched(model, batches, hooks, on=False)
    for name, layer in chosen.items():
        seen = moments[name]
        if seen.count and isinstance(layer, QuantLinear | QuantConv2d):
            check_numbers(seen.square, name)
            _apply(layer, seen, strength)


def _apply(layer: QuantLinear | QuantConv2d, seen: _Moments, strength: float) -> None:
    mean = seen.total / seen.count
    # A convolution pads with true zeros, so its channels are measured and kept about zero.
    centre = mean if isinstance(layer, QuantLinear) else torch.zeros_like(mean)
    spread = (seen.square / seen.count - 2 * centre * mean + centre**2).clamp(min=0).sqrt()
    stretch = (spread / spread.mean().clamp(min=1e-12)).clamp(min=SMALLEST) ** strength
    # Half precision is what the file holds: the grid is built on what will be stored.
    layer.stretch = stretch.float().half().float()
    if isinstance(layer, QuantLinear):
        layer.shift = (centre * strength).float().half().float()


class _Moments:
    """Running sums of an input's channels."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor = torch.zeros(())
        self.square: Tensor = torch.zeros(())

    def hook(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Add the sums of one input."""
        if not isinstance(module, QuantLinear | QuantConv2d):
            return
        x = args[0].detach().double()
        if isinstance(module, QuantConv2d):
            x = module.geometry.opened(x)
        elif x.dim() == 1:
            x = x[None]
        axis = module.channel_axis % x.dim()
        others = [d for d in range(x.dim()) if d != axis]
        self.total = self.total + x.sum(others)
        self.square = self.square + x.square().sum(others)
        self.count += x.numel() // x.shape[axis]
