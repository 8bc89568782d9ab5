"""Mixed precision under a budget of bytes: which layers get fewer bits.

Every layer starts at 8 bits; the one whose noise grows least for each byte it saves gives up a bit,
until the model fits. How many bytes a choice takes is weighed, not estimated: the greedy walk
counts codes alone, and what the file has beside them is found from the file.

Noise is the squared error of the weights on their best grid, relative to the weights, times the
layer's share of the work: a layer that computes more is heard more.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bitcompress.calibrate.atoms import Atoms, squared_error
from bitcompress.calibrate.bounds import mse
from bitcompress.errors import UsageError
from bitcompress.graph.rewrite import Plan
from bitcompress.packed.stored import packed_bytes
from bitcompress.quant.spec import QuantSpec

WIDTHS = (8, 7, 6, 5, 4, 3, 2)
ATTEMPTS = 6
"""Corrections of the walk's aim until the file fits closely."""
CLOSE = 0.995
"""A file of this share of the budget or more is close enough."""

Weigh = Callable[[Sequence[Plan]], int]
"""Plans -> the bytes on disk of the model that they make."""


@dataclass(frozen=True)
class _Layer:
    plan: Plan
    numbers: int
    noise: dict[int, float]

    def bytes(self, bits: int) -> int:
        return packed_bytes(self.numbers, bits)


def fit_budget(
    net: nn.Module, plans: Sequence[Plan], target: int, weigh: Weigh
) -> tuple[Plan, ...]:
    """The same plans with weight widths chosen so that the stored model has at most `target` bytes.

    Activations keep the width of the recipe. Layers that the recipe keeps wide may narrow as well.
    Units: bytes on disk.
    Raises: UsageError if even 2 bits everywhere are too many bytes.
    """
    layers = [_layer(net, plan) for plan in plans if plan.quantized and plan.site.op != "matmul"]
    least = _with(plans, {layer.plan.site.name: WIDTHS[-1] for layer in layers})
    smallest = weigh(least)
    codes = sum(layer.bytes(WIDTHS[-1]) for layer in layers)
    if smallest > target:
        raise UsageError(
            f"--target-bytes {target}: even at 2 bits the model takes {smallest} bytes, "
            f"{smallest - codes} of them scales, biases and float layers"
        )
    best, size, rest = least, smallest, smallest - codes
    for _ in range(ATTEMPTS):
        tried = _with(plans, _narrowed(layers, target - rest))
        weight = weigh(tried)
        if size < weight <= target:
            best, size = tried, weight
        wanted = sum(layer.bytes(_width(tried, layer)) for layer in layers)
        if weight - wanted == rest or (CLOSE * target <= weight <= target):
            break
        rest = weight - wanted
    return best


def _with(plans: Sequence[Plan], widths: Mapping[str, int]) -> tuple[Plan, ...]:
    return tuple(
        replace(plan, weight_bits=widths[plan.site.name], reason="width chosen by --target-bytes")
        if plan.site.name in widths
        else plan
        for plan in plans
    )


def _width(plans: Sequence[Plan], layer: _Layer) -> int:
    return next(p.weight_bits for p in plans if p.site.name == layer.plan.site.name)


def _narrowed(layers: Sequence[_Layer], room: int) -> dict[str, int]:
    """The widths of least noise, by the greedy walk, whose codes take at most `room` bytes."""
    widths = {layer.plan.site.name: WIDTHS[0] for layer in layers}
    size = sum(layer.bytes(WIDTHS[0]) for layer in layers)
    heap = [_offer(layer, WIDTHS[0]) + (i,) for i, layer in enumerate(layers)]
    heapq.heapify(heap)
    while size > room and heap:
        _, bits, i = heapq.heappop(heap)
        layer = layers[i]
        size -= layer.bytes(bits) - layer.bytes(bits - 1)
        widths[layer.plan.site.name] = bits - 1
        if bits - 1 > WIDTHS[-1]:
            heapq.heappush(heap, (*_offer(layer, bits - 1), i))
    return _filled(layers, widths, room - size)


def _filled(layers: Sequence[_Layer], widths: dict[str, int], left: int) -> dict[str, int]:
    """The same with bits given back where the last step saved more than was needed."""
    widths = dict(widths)
    offers = [(*_offer(layer, bits), i) for i, layer in enumerate(layers) for bits in WIDTHS[:-1]]
    for _, bits, i in sorted(offers, reverse=True):
        name, more = layers[i].plan.site.name, layers[i].bytes(bits) - layers[i].bytes(bits - 1)
        if widths[name] == bits - 1 and more <= left:
            widths[name], left = bits, left - more
    return widths


def _offer(layer: _Layer, bits: int) -> tuple[float, int]:
    """The price of one bit less: added noise for each byte saved."""
    saved = max(1, layer.bytes(bits) - layer.bytes(bits - 1))
    return (layer.noise[bits - 1] - layer.noise[bits]) / saved, bits


def _layer(net: nn.Module, plan: Plan) -> _Layer:
    weight = _weight(net, plan)
    rows = weight.detach().reshape(weight.shape[0], -1)
    atoms, power = Atoms.of_rows(rows), float(rows.double().square().sum()) or 1.0
    noise = {}
    for bits in WIDTHS:
        bounds = mse(atoms, QuantSpec(bits))
        low, high = bounds.lower.double()[:, None], bounds.upper.double()[:, None]
        high = torch.maximum(high, low + 1e-8)
        error = float(squared_error(atoms, low, high, bits).sum())
        noise[bits] = error / power * max(plan.site.macs, 1)
    return _Layer(plan, weight.numel(), noise)


def _weight(net: nn.Module, plan: Plan) -> Tensor:
    if plan.site.weight:
        return net.get_parameter(plan.site.weight)
    return net.get_parameter(f"{plan.site.name}.weight")
