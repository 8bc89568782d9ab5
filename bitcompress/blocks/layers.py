"""The float layer of a site, also where the site is a function call on parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from bitcompress.errors import NotPackable
from bitcompress.graph.capture import Captured
from bitcompress.graph.intercept import tensor_at
from bitcompress.graph.site import Site

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


def float_layer(captured: Captured, site: Site) -> Layer:
    """The layer at a site, or one that computes what its function call computes.

    Raises: NotPackable where there is none.
    """
    if site.tier == "module":
        layer = captured.net.get_submodule(site.name)
        if not isinstance(layer, LAYERS):
            raise NotPackable(f"a {type(layer).__name__} is neither linear nor convolution")
        return layer
    weight = tensor_at(captured.net, site.weight)
    bias = tensor_at(captured.net, site.bias) if site.bias else None
    layer = _linear(weight) if site.op == "linear" else _convolution(weight, site)
    layer.weight = nn.Parameter(weight.detach().clone())
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    return layer


def _linear(weight: Tensor) -> nn.Linear:
    return nn.Linear(weight.shape[1], weight.shape[0], False, device="meta")


def _convolution(weight: Tensor, site: Site) -> nn.Conv2d:
    detail = site.details
    groups = int(detail.get("groups", 1))
    return nn.Conv2d(
        weight.shape[1] * groups, weight.shape[0], (int(weight.shape[2]), int(weight.shape[3])),
        stride=_pair(detail.get("stride", 1)), padding=_padding(detail.get("padding", 0)),
        dilation=_pair(detail.get("dilation", 1)), groups=groups, bias=False, device="meta",
    )  # fmt: skip


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _padding(value: Any) -> tuple[int, int] | str:
    return value if isinstance(value, str) else _pair(value)
