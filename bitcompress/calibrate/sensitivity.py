"""How far the error of each layer moves the output of the model, all layers in one backward pass.

A layer on a grid answers with y + d instead of y. To first order that moves the output by J d, J
the Jacobian from the layer to the output, and no J is needed to know how far: for signs r drawn at
random the mean of (r J d)^2 is |J d|^2, and r J is what a backward pass of r leaves at y.

Source: the estimator is Hutchinson's; the errors are those of the layers alone, as in `loud`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.calibrate.run import grids, quantizers, second_run
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.capture import as_inputs
from bitcompress.graph.intercept import Rewritten


def sensitivities(
    model: Rewritten, layers: Mapping[str, nn.Module], inputs: Iterable[Any], seed: int = 0
) -> dict[str, float]:
    """The squared error of the whole output that the grids of each layer make alone.

    Each of `inputs` is one run, with signs of its own. Layers that no gradient reaches have 0, and
    all of them where the forward takes no gradients at all.
    Units: squared units of the output, summed over it, the mean of the runs.
    """
    random = torch.Generator().manual_seed(seed)
    run = _Run()
    totals = dict.fromkeys(layers, 0.0)
    handles = [layer.register_forward_hook(run.watch(n, layer)) for n, layer in layers.items()]
    count = 0
    try:
        with grids(quantizers(model), on=False), torch.enable_grad():
            for batch in inputs:
                args, kwargs = as_inputs(batch)
                run.moved = {}
                try:
                    _backward(model(*args, **kwargs), random)
                except RuntimeError:
                    # torch refuses gradients through some forwards; no layer stands out, then.
                    break
                count += 1
                for name, moved in run.moved.items():
                    totals[name] += moved**2
    finally:
        for handle in handles:
            handle.remove()
        for parameter in model.parameters():
            parameter.grad = None
    return {name: total / max(count, 1) for name, total in totals.items()}


class _Run:
    """What one run finds: how far each layer's error moves the signed sum of the output."""

    def __init__(self) -> None:
        self.moved: dict[str, float] = {}

    def watch(self, name: str, layer: nn.Module) -> Any:
        """A hook that notes the layer's error, and weighs it when the gradient arrives."""

        def note(out: Tensor, on_grids: Tensor) -> Tensor:
            error = on_grids - out.detach()
            if not out.requires_grad:
                out = out.detach().requires_grad_()

            def weigh(gradient: Tensor) -> None:
                here = float((gradient * error).sum())
                self.moved[name] = self.moved.get(name, 0.0) + here

            out.register_hook(weigh)  # type: ignore[no-untyped-call]
            return out

        return second_run(quantizers(layer), on=True, then=note)


def _backward(out: Any, random: torch.Generator) -> None:
    """Send random signs back from every output that a gradient can leave."""
    reached = [t for t in tensors_of(out) if t.requires_grad and t.is_floating_point()]
    if reached:
        signs = [torch.randint(0, 2, t.shape, generator=random).to(t) * 2 - 1 for t in reached]
        torch.autograd.backward(reached, signs)
