"""Run batches through the float model and give each quantizer its bounds.

All bounds are found on clean float activations in one pass: each quantizer lets numbers through,
a histogram beside it counts them. Weights are looked at exactly, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from bitcompress.calibrate.atoms import Atoms
from bitcompress.calibrate.histogram import Histogram
from bitcompress.calibrate.run import check_numbers, run_watched
from bitcompress.errors import DataError
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.rewrite import quant_layers
from bitcompress.layers import QuantConv2d, QuantLinear, QuantMatmul, SplitLinear
from bitcompress.packed.rows import largest_of
from bitcompress.quant.spec import Bounds, QuantSpec
from bitcompress.quant.uniform import UniformQuantizer

BoundSearch = Callable[[Atoms, QuantSpec, str], Bounds]
"""(atoms, spec, producer) -> bounds of each row of atoms."""

Progress = Callable[[str, int, int], None]
"""(what, done, total)."""


def activation_quantizers(layer: nn.Module) -> list[tuple[str, UniformQuantizer]]:
    """The quantizers of a layer that see activations, with the operand they see."""
    if isinstance(layer, QuantLinear | QuantConv2d):
        return [("input", layer.input_quantizer)]
    if isinstance(layer, QuantMatmul):
        return [("a", layer.a_quantizer), ("b", layer.b_quantizer)]
    if isinstance(layer, SplitLinear):
        return [
            (f"input{i}", part.input_quantizer)
            for i, part in enumerate(layer.parts)
            if isinstance(part, QuantLinear)
        ]
    return []


def weight_quantizers(layer: nn.Module) -> list[tuple[Tensor, UniformQuantizer]]:
    """The quantizers of a layer that see weights, with the weight."""
    if isinstance(layer, QuantLinear | QuantConv2d):
        return [(layer.stretched_weight(), layer.weight_quantizer)]
    if isinstance(layer, SplitLinear):
        return [
            (part.stretched_weight(), part.weight_quantizer)
            for part in layer.parts
            if isinstance(part, QuantLinear)
        ]
    return []


def calibrate(
    model: Rewritten,
    batches: Iterable[Any],
    search: BoundSearch,
    *,
    weight_search: BoundSearch | None = None,
    producers: dict[str, tuple[str, ...]] | None = None,
    only: Collection[str] | None = None,
    progress: Progress | None = None,
) -> int:
    """Set the bounds of every quantizer of `model`, or of the layers that `only` names.

    Returns: the number of batches seen.

    Raises: DataError if there is no batch, or a batch makes an activation that is not finite.
    """
    layers = _chosen(model, only)
    _set_weight_bounds(layers, weight_search or search, progress)
    histograms, count = _observe(model, layers, batches, progress)
    for number, (name, layer) in enumerate(layers.items()):
        if progress is not None:
            progress(f"activation bounds ({name})", number + 1, len(layers))
        makers = (producers or {}).get(name, ())
        for i, (_, quantizer) in enumerate(activation_quantizers(layer)):
            histogram = histograms[quantizer]
            if histogram.left is None:
                raise DataError(f"{name} never ran on the calibration data; exclude it or add data")
            # A layer has one input, whoever looks at it; a product has a maker for each operand.
            place = i if isinstance(layer, QuantMatmul) else 0
            made = makers[place] if place < len(makers) else ""
            quantizer.set_bounds(search(histogram.atoms(), quantizer.spec, made))
    return count


def set_weight_bounds(
    model: Rewritten, search: BoundSearch, progress: Progress | None = None
) -> None:
    """Set the bounds of every weight quantizer from the weights alone."""
    _set_weight_bounds(quant_layers(model), search, progress)


def _chosen(model: Rewritten, only: Collection[str] | None) -> dict[str, nn.Module]:
    return {n: layer for n, layer in quant_layers(model).items() if only is None or n in only}


def _set_weight_bounds(
    layers: Mapping[str, nn.Module], search: BoundSearch, progress: Progress | None
) -> None:
    for number, (name, layer) in enumerate(layers.items()):
        if progress is not None:
            progress(f"weight bounds ({name})", number + 1, len(layers))
        for weight, quantizer in weight_quantizers(layer):
            rows = weight.detach().reshape(quantizer.lower.numel(), -1)
            quantizer.set_bounds(search(Atoms.of_rows(rows), quantizer.spec, ""))


def observe(
    model: Rewritten, batches: Iterable[Any], progress: Progress | None = None
) -> tuple[dict[UniformQuantizer, Histogram], int]:
    """Histograms of what every activation quantizer sees on clean float activations."""
    return _observe(model, quant_layers(model), batches, progress)


def _observe(
    model: Rewritten,
    layers: Mapping[str, nn.Module],
    batches: Iterable[Any],
    progress: Progress | None,
) -> tuple[dict[UniformQuantizer, Histogram], int]:
    watched = {
        q: Histogram(q.spec, q.lower.numel())
        for layer in layers.values()
        for _, q in activation_quantizers(layer)
    }
    hooks = [
        layer.register_forward_pre_hook(_counter(name, watched))
        for name, outer in layers.items()
        for layer in outer.modules()
        if isinstance(layer, QuantLinear | QuantConv2d | QuantMatmul)
    ]

    def say(done: int) -> None:
        if progress is not None:
            progress("calibration batches", done, 0)

    count = run_watched(model, batches, hooks, on=False, after=say)
    if not count:
        raise DataError("no calibration batch: give data that yields at least one")
    return watched, count


def _counter(
    name: str, histograms: dict[UniformQuantizer, Histogram]
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A hook that counts what each quantizer of the layer of that name would see."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, QuantMatmul):
            length = int(args[0].shape[-1])
            if module.per_row:
                args = (args[0] / largest_of(args[0]), *args[1:])
            for quantizer in (module.a_quantizer, module.b_quantizer):
                if quantizer.shares:
                    quantizer.shortest = min(quantizer.shortest or length, length)
            seen = [
                (q, x * length**0.5 if q.per_length else x)
                for q, x in zip((module.a_quantizer, module.b_quantizer), args, strict=False)
            ]
        elif isinstance(module, QuantLinear | QuantConv2d):
            x = args[0].detach()
            x = module.geometry.opened(x) if isinstance(module, QuantConv2d) else x
            seen = [(module.input_quantizer, module.normalised(x))]
        else:
            return
        for quantizer, x in seen:
            check_numbers(x, name)
            histograms[quantizer].add(x)

    return hook
