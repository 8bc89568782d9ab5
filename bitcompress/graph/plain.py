"""Weights that a layer computes on each run become plain parameters.

Weight norm, spectral norm, parametrizations of torch.nn.utils.parametrize and the masks of pruning
serve training; in eval mode each gives the same numbers on every run, and those are kept. A weight
that is drawn anew, or has another shape than what it is made from, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from bitcompress.graph.decompose import decompose
from bitcompress.graph.record import LAYERS


def first_edits(net: nn.Module) -> list[dict[str, Any]]:
    """Make of a model, in place, what capture sees best: plain weights, opened attention layers.

    Returns: what was done, as a packed file keeps it to do it again to its skeleton.
    """
    done = {"plain": plain_weights(net), "decompose": decompose(net)}
    return [{"edit": edit, "names": names} for edit, names in done.items() if names]


def plain_weights(net: nn.Module) -> list[str]:
    """Make the weights of layers plain, in place; the names of the layers that were changed."""
    changed = []
    for name, module in list(net.named_modules()):
        if isinstance(module, LAYERS) and make_plain(module):
            changed.append(name)
    return changed


def make_plain(layer: nn.Module) -> bool:
    """Make all that the layer computes its parameters from plain; whether anything was.

    On the meta device only names and shapes are made, as a skeleton needs them.
    """
    made = [parametrize.is_parametrized(layer) and _without_parametrizations(layer)]
    made += [_without_hook(layer, hook) for hook in list(layer._forward_pre_hooks.values())]
    return any(made)


def _without_parametrizations(layer: nn.Module) -> bool:
    """All of them or none: the class that torch made for the layer is left to copies of it.

    (`remove_parametrizations` takes the weight from that class, which a deep copy shares.)
    """
    found: dict[str, nn.Parameter] = {}
    for name, parts in layer.get_submodule("parametrizations").named_children():
        sources = list(parts.parameters(recurse=False))
        with torch.no_grad():
            value, again = getattr(layer, name).clone(), getattr(layer, name)
        if value.shape not in {source.shape for source in sources} or not _same(value, again):
            return False
        trains = any(source.requires_grad for source in sources)
        found[name] = nn.Parameter(value, requires_grad=trains)
    del layer._modules["parametrizations"]
    layer.__class__ = type(layer).__bases__[0]
    for name, parameter in found.items():
        layer.register_parameter(name, parameter)
    return True


def _without_hook(layer: nn.Module, hook: object) -> bool:
    remove: Callable[[Any, str], Any]
    if isinstance(hook, WeightNorm):
        name, end, remove = hook.name, "v", remove_weight_norm
    elif isinstance(hook, SpectralNorm):
        name, end, remove = hook.name, "orig", remove_spectral_norm
    elif isinstance(hook, prune.BasePruningMethod):
        name, end, remove = str(hook._tensor_name), "orig", prune.remove
    else:
        return False
    trains = bool(getattr(layer, f"{name}_{end}").requires_grad)
    remove(layer, name)
    _keep(layer, name, getattr(layer, name).detach(), trains)
    return True


def _same(value: Tensor, again: Tensor) -> bool:
    return value.is_meta or torch.equal(value, again)


def _keep(layer: nn.Module, name: str, value: Tensor, trains: bool) -> None:
    """The tensor as a parameter of that name, whatever stands there now."""
    delattr(layer, name)
    layer.register_parameter(name, nn.Parameter(value, requires_grad=trains))
