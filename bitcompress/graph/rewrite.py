"""Rewriting: the plan of each site is carried out on the private copy of the model.

The rewriter runs twice: once float -> trainable layers on grids (`insert`), once trainable ->
packed (`pack_layers`). Both edit by module name and call site; the user's forward stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from bitcompress.errors import NotPackable
from bitcompress.graph.capture import Captured
from bitcompress.graph.intercept import Call, Rewritten, strip_parameter, tensor_at
from bitcompress.graph.site import Site
from bitcompress.graph.swap import stand_in
from bitcompress.layers import (
    CONVOLUTIONS,
    QUANT_LAYERS,
    ConvGeometry,
    QuantConv2d,
    QuantLayer,
    QuantLinear,
    QuantMatmul,
    SplitLinear,
    Widths,
)

State = Literal["packed", "simulated", "float"]


@dataclass(frozen=True)
class Plan:
    """What shall become of one site."""

    site: Site
    weight_bits: int = 0
    act_bits: int = 0
    per_channel: bool = True
    per_head: bool = True
    per_row: bool = True
    """Whether attention weights are cut relative to the largest of their row."""
    split: int = 1
    """Into how many linears on the same input a linear is cut (3: q, k, v)."""
    keep: State = "packed"
    reason: str = ""
    """Why it is kept float or wider than asked."""

    @property
    def quantized(self) -> bool:
        """Whether the site gets grids."""
        return self.keep != "float"

    def row(self) -> dict[str, Any]:
        """The plan as reports and `inspect` list it; a float layer has 32 bits."""
        site = self.site
        return {
            "name": site.name,
            "op": site.op,
            "kind": site.kind,
            "roles": sorted(site.roles),
            "tier": site.tier,
            "macs": site.macs,
            "params": site.params,
            "weight_bits": self.weight_bits if self.quantized else 32,
            "act_bits": self.act_bits if self.quantized else 32,
            "state": self.keep,
            "reason": self.reason,
        }


def insert(captured: Captured, plans: Iterable[Plan]) -> Rewritten:
    """Put trainable layers on grids where the plans say so; the net of `captured` is edited."""
    model = Rewritten(captured.net)
    swapped: dict[int, nn.Module] = {}
    for plan in plans:
        if not plan.quantized:
            continue
        site = plan.site
        if site.tier == "module":
            old = captured.net.get_submodule(site.name)
            new = swapped.get(id(old)) or _quantized_layer(old, plan)
            swapped[id(old)] = new
            model.net = stand_in(model.net, old, new)
        else:
            model.replace_call(
                Call(*site.key), site.part, site.name, _quantized_call(captured.net, plan)
            )
    return model


def _quantized_layer(layer: nn.Module, plan: Plan) -> nn.Module:
    widths = Widths(plan.weight_bits, plan.act_bits, 0 if plan.per_channel else None)
    if isinstance(layer, CONVOLUTIONS):
        geometry = ConvGeometry.of_layer(layer)
        return QuantConv2d(geometry.weight_of(layer), geometry.bias_of(layer), geometry, widths)
    if not isinstance(layer, nn.Linear):
        raise NotPackable(
            f"{plan.site.name} is a {type(layer).__name__}, neither linear nor convolution"
        )
    if plan.split > 1:
        return SplitLinear(_split(layer, plan.split, widths))
    return QuantLinear(layer.weight, layer.bias, widths)


def _split(layer: nn.Linear, parts: int, widths: Widths) -> list[QuantLinear]:
    if layer.out_features % parts:
        raise NotPackable(f"{layer.out_features} outputs cannot be split into {parts} equal parts")
    weights = layer.weight.detach().chunk(parts)
    biases = [None] * parts if layer.bias is None else layer.bias.detach().chunk(parts)
    return [
        QuantLinear(nn.Parameter(w.clone()), None if b is None else nn.Parameter(b.clone()), widths)
        for w, b in zip(weights, biases, strict=True)
    ]


def _quantized_call(net: nn.Module, plan: Plan) -> nn.Module:
    site = plan.site
    if site.op == "matmul":
        relative = site.producers[0] == "normalize", site.producers[1] == "normalize"
        per_row = plan.per_row and site.producers[0] == "softmax"
        shares = site.producers[0] == "softmax" and not per_row, site.producers[1] == "softmax"
        heads = site.heads if plan.per_head else (1, 1)
        return QuantMatmul(plan.act_bits, plan.act_bits, heads, relative, shares, per_row=per_row)
    weight = tensor_at(net, site.weight)
    bias = tensor_at(net, site.bias) if site.bias else None
    widths = Widths(plan.weight_bits, plan.act_bits, 0 if plan.per_channel else None)
    weight_copy = nn.Parameter(weight.detach().clone())
    bias_copy = None if bias is None else nn.Parameter(bias.detach().clone())
    for name in filter(None, (site.weight, site.bias)):
        strip_parameter(net, name)
    if site.op == "conv2d":
        geometry = ConvGeometry.of(
            (int(weight.shape[2]), int(weight.shape[3])),
            _pair(site.details.get("stride", 1)),
            _padding(site.details.get("padding", 0)),
            _pair(site.details.get("dilation", 1)),
            int(site.details.get("groups", 1)),
        )
        return QuantConv2d(weight_copy, bias_copy, geometry, widths)
    return QuantLinear(weight_copy, bias_copy, widths)


def _pair(value: int | tuple[int, ...] | list[int]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return int(value[0]), int(value[-1])


def _padding(value: int | str | tuple[int, ...]) -> tuple[int, int] | str:
    return value if isinstance(value, str) else _pair(value)


def quant_layers(model: Rewritten) -> dict[str, QuantLayer]:
    """The layers on grids by site name, in the order of the module tree, products last."""
    found: dict[str, QuantLayer] = {}
    inside: set[int] = set()
    for name, module in model.net.named_modules():
        if isinstance(module, QUANT_LAYERS) and id(module) not in inside:
            found[name] = module
            inside.update(id(m) for m in module.modules())
    for name, module in model.products.items():
        if isinstance(module, QUANT_LAYERS):
            found[name.replace("/", ".")] = module
    return found


def pack_layers(model: Rewritten, keep_simulated: frozenset[str] = frozenset()) -> None:
    """Replace every layer on grids by its packed twin, except those named in `keep_simulated`."""
    layers = quant_layers(model)
    model.on_codes = model.on_codes or bool(layers)
    for name, layer in layers.items():
        if name in keep_simulated:
            continue
        packed = layer.pack()
        key = name.replace(".", "/")
        if key in model.products:
            model.products[key] = packed
        else:
            model.net = stand_in(model.net, layer, packed)
