"""Calls that multiply nothing, and that a block beside them may take over: activations, resampling.

They are known by where they stand, as products are: the module whose forward runs, the kind, the
ordinal. torch's own activation layers count as calls of the module that calls them, so that one
`nn.ReLU` that stands behind two layers is two calls, and either may be taken over alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn

POINTWISE: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    Tensor.relu: "relu",
    Tensor.relu_: "relu",
    F.leaky_relu: "leaky_relu",
    F.leaky_relu_: "leaky_relu",
    F.prelu: "prelu",
    torch.prelu: "prelu",
    Tensor.prelu: "prelu",
    F.interpolate: "interpolate",
}
"""Functions by the kind that names their call sites."""

MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "prelu",
    nn.Upsample: "interpolate",
    nn.UpsamplingNearest2d: "interpolate",
}
"""Layers of torch whose forward is one such call."""

ACTIVATIONS = ("relu", "leaky_relu", "prelu")


class Absorbed(nn.Module):
    """What stands at a call that a block took over: it hands on what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: any -> the same tensor."""
        return x


def run_pointwise(
    module: nn.Module, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor:
    """What the replacement of a call gives; where the call writes into its input, it does too."""
    x: Tensor = args[0] if args else kwargs["input"]
    y: Tensor = module(x)
    if y is x or not _in_place(func, args, kwargs):
        return y
    return x.copy_(y)


def _in_place(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    name = getattr(func, "__name__", "")
    at = {"relu": 1, "leaky_relu": 2}.get(name, len(args))
    return name.endswith("_") or bool(kwargs.get("inplace", at < len(args) and args[at]))


def activation_of(node: fx.Node, net: nn.Module) -> nn.Module | None:
    """The activation that a recorded call computes, as a layer; None where it is none.

    Returns: the layer itself where a layer was called, else a new one of the same numbers.
    """
    module = node.meta.get("module")
    if isinstance(module, nn.ReLU | nn.LeakyReLU | nn.PReLU):
        return module
    kind = node.meta.get("pointwise", ("", "", 0))[1]
    if kind == "relu":
        return nn.ReLU()
    if kind == "leaky_relu":
        slope = node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else 0.01)
        return nn.LeakyReLU(slope) if isinstance(slope, float | int) else None
    if kind == "prelu":
        return _functional_prelu(node, net)
    return None


def _functional_prelu(node: fx.Node, net: nn.Module) -> nn.Module | None:
    """A PReLU of the parameter that a call reads; None where its slope is computed."""
    weight = node.kwargs.get("weight", node.args[1] if len(node.args) > 1 else None)
    name = weight.meta.get("parameter", "") if isinstance(weight, fx.Node) else ""
    owner, _, leaf = name.rpartition(".")
    slope = getattr(net.get_submodule(owner), leaf, None) if name else None
    if not isinstance(slope, Tensor):
        return None
    layer = nn.PReLU(slope.numel())
    with torch.no_grad():
        layer.weight.copy_(slope)
    return layer
