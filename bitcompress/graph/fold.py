"""Batch norms folded into the convolution or linear before them.

In eval mode y = gamma (x - mean) / sqrt(var + eps) + beta is a scale and a shift a channel, so with
s = gamma / sqrt(var + eps) the layer w, b followed by it is the layer s w, s (b - mean) + beta.
The sums are made in float64: a running variance of 1e-6 beside eps 1e-5 loses digits in float32.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from bitcompress.graph.record import Recording
from bitcompress.graph.sharing import Users, weight_users
from bitcompress.graph.swap import stand_in


def fold_batchnorm(net: nn.Module, recording: Recording) -> tuple[list[str], list[tuple[str, str]]]:
    """Fold each batch norm that alone follows a plain convolution or linear; it becomes Identity.

    Returns: the names of the folded norms, and (name, reason) of those that stay.
    """
    nodes: dict[str, list[fx.Node]] = {}
    for node in recording.graph.nodes:
        if node.op == "call_module":
            nodes.setdefault(str(node.target), []).append(node)
    users = weight_users(net, recording)
    folded, refused = [], []
    for name, module in list(net.named_modules()):
        if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            continue
        reason = _refusal(net, module, nodes.get(name, []), nodes)
        reason = reason or _read_elsewhere(net, name, nodes[name][0], users)
        if reason:
            refused.append((name, reason))
            continue
        producer = nodes[name][0].all_input_nodes[0]
        _fold(net.get_submodule(str(producer.target)), module)
        stand_in(net, module, nn.Identity())
        folded.append(name)
    return folded, refused


def _read_elsewhere(net: nn.Module, name: str, call: fx.Node, users: Users) -> str:
    """Who computes with the numbers of the norm or of its producer; empty where nobody does."""
    layers = {each for each, _ in net.named_modules()}
    for each in (name, str(call.all_input_nodes[0].target)):
        for tensor in net.get_submodule(each).state_dict(keep_vars=True).values():
            others = users.get(id(tensor), {}).keys() - layers
            if others:
                return f"the numbers of {each} are also used by {min(others)}"
    return ""


def _refusal(
    net: nn.Module,
    norm: nn.BatchNorm1d | nn.BatchNorm2d,
    calls: list[fx.Node],
    nodes: dict[str, list[fx.Node]],
) -> str:
    """Why a norm cannot be folded; empty where it can."""
    if not calls:
        return "never ran on the example input"
    if len(calls) > 1:
        return "runs more than once"
    if norm.running_mean is None or norm.running_var is None:
        return "keeps no running statistics"
    if norm.training:
        return "is in training mode: its statistics are those of the batch"
    if norm._forward_hooks or norm._forward_pre_hooks:
        return "has hooks of its own"
    parents = calls[0].all_input_nodes
    if len(parents) != 1 or parents[0].op != "call_module":
        return "does not follow a convolution or linear"
    producer = net.get_submodule(str(parents[0].target))
    if type(producer) not in (nn.Conv1d, nn.Conv2d, nn.Linear) or hasattr(
        producer, "parametrizations"
    ):
        return f"follows a {type(producer).__name__}, not a plain Conv1d, Conv2d or Linear"
    if isinstance(producer, nn.Linear) and len(parents[0].meta["out_shape"]) != 2:
        return "its linear has more than one row a sample, so its channel axis is another one"
    if isinstance(producer, nn.Conv1d) and len(parents[0].meta["out_shape"]) != 3:
        return "its convolution has no batch, so its channel axis is another one"
    if len(nodes[str(parents[0].target)]) > 1:
        return f"{parents[0].target} runs more than once"
    if len(parents[0].users) != 1:
        return f"{parents[0].target} is used by others too"
    if producer._forward_hooks or producer._forward_pre_hooks:
        return f"{parents[0].target} has hooks of its own"
    return ""


def _fold(layer: nn.Module, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.double()
        bias = (bias - norm.running_mean.double()) * scale
        if norm.bias is not None:
            bias = bias + norm.bias.double()
        view = (-1,) + (1,) * (layer.weight.dim() - 1)
        weight = layer.weight.double() * scale.view(view)
        trains = layer.weight.requires_grad
        layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=trains)
        layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=trains)
