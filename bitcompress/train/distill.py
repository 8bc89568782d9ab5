"""How far a quantized student is from its float teacher: the losses of DQC and of fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import RecipeError
from bitcompress.graph.arguments import tensors_of

Features = list[Tensor]
DistillLoss = Callable[[Tensor, Tensor, Features, Features, float], Tensor]
"""(student output, teacher output, student features, teacher features, feature weight) -> loss."""


def ours(out: Tensor, target: Tensor, got: Features, want: Features, weight: float) -> Tensor:
    """Mean absolute output error plus the mean distance of L2-normalised features.

    Shapes: out, target (N, ...); features any, first axis N.
    Source: 2DQuant (NeurIPS 2024), section 3.3. Differs: the feature distances are averaged over
    taps and samples, norms are taken a sample and differentiated; the paper leaves the weight open.
    """
    loss = (out - target).abs().mean()
    if got:
        parts = [(_unit(f) - _unit(g)).flatten(1).norm(dim=1).mean() for f, g in _pairs(got, want)]
        loss = loss + weight * torch.stack(parts).mean()
    return loss


def paper(out: Tensor, target: Tensor, got: Features, want: Features, weight: float) -> Tensor:
    """The printed loss: L1 over the image plus normalised feature distances, each over its size.

    Source: 2DQuant (NeurIPS 2024), equations of section 3.3; lambda is not printed.
    """
    loss = (out - target).abs().mean()
    for f, g in _pairs(got, want):
        loss = loss + weight * (_unit(f) - _unit(g)).flatten(1).norm(dim=1).mean() / f[0].numel()
    return loss


def code(out: Tensor, target: Tensor, got: Features, want: Features, weight: float) -> Tensor:
    """The loss of the released code: both terms divided by their size a second time.

    Source: the released 2dquant_model. Differs: each sample has its own norm, where the release
    broadcasts every sample's norm over every sample; norms are detached as there.
    """
    loss = (out - target).abs().mean() / out[0].numel()
    for f, g in _pairs(got, want):
        f_unit = f / _norms(f.detach())
        loss = loss + weight * (f_unit - _unit(g)).square().mean() / f[0].numel()
    return loss


def blocks(out: Tensor, target: Tensor, got: Features, want: Features, weight: float) -> Tensor:
    """Mean absolute output error plus each tap's squared error relative to its own variance.

    Errors and variances are a sample's own, so that the loss of a batch is the mean of its samples'
    however the batch is shared out.
    Source: our design: the relative error is what a later block sees, so taps weigh alike.
    """
    loss = (out - target).abs().mean()
    if got:
        parts = [_relative_error(f, g) for f, g in _pairs(got, want)]
        loss = loss + weight * torch.stack(parts).mean()
    return loss


def _relative_error(f: Tensor, g: Tensor) -> Tensor:
    errors = (f - g).square().flatten(1).mean(1)
    return (errors / g.flatten(1).var(1, correction=0).clamp(min=1e-12)).mean()


LOSSES: dict[str, DistillLoss] = {"paper": paper, "code": code, "ours": ours, "blocks": blocks}


def _pairs(got: Features, want: Features) -> list[tuple[Tensor, Tensor]]:
    return list(zip(got, want, strict=True))


def _unit(f: Tensor) -> Tensor:
    return f / _norms(f)


def _norms(f: Tensor) -> Tensor:
    norms: Tensor = f.flatten(1).norm(dim=1)
    return norms.clamp(min=1e-12).view([-1] + [1] * (f.dim() - 1))


def find_taps(net: nn.Module, patterns: Sequence[str] = ()) -> tuple[str, ...]:
    """The modules whose outputs are compared: those named, or the blocks of the longest list.

    Without patterns these are the entries of the longest ModuleList or Sequential of modules that
    have children themselves; failing that, the top-level children that have children.
    Raises: RecipeError if a pattern names no module.
    """
    modules = dict(net.named_modules())
    if patterns:
        found = [n for n in modules if any(fnmatchcase(n, p) for p in patterns)]
        if not found:
            raise RecipeError(f"train.taps {list(patterns)} name no module of {type(net).__name__}")
        return tuple(found)
    lists: list[tuple[str, ...]] = [
        tuple(
            f"{name}.{i}" if name else i
            for i, child in module.named_children()
            if any(child.children())
        )
        for name, module in modules.items()
        if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    lists.append(tuple(n for n, child in net.named_children() if any(child.children())))
    best = max(lists, key=len)
    kinds = {type(modules[name]) for name in best}
    if best and len(kinds) <= 2:
        siblings = [n for n, m in modules.items() if type(m) in kinds and n not in best]
        return tuple(n for n in modules if n in best or n in siblings)
    return best


@contextmanager
def tapped(net: nn.Module, names: Sequence[str]) -> Any:
    """A list that holds, after each run of `net`, the outputs of the named modules in order."""
    store: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            value = out[0] if isinstance(out, tuple | list) else out
            if isinstance(value, Tensor):
                store[name] = value

        return hook

    handles = [net.get_submodule(n).register_forward_hook(keep(n)) for n in names]
    try:
        yield store
    finally:
        for handle in handles:
            handle.remove()


def features(store: Mapping[str, Tensor], names: Sequence[str]) -> Features:
    """The tapped outputs in the order of `names`; modules that gave no tensor are left out."""
    return [store[name] for name in names if name in store]


def first_tensor(out: Any) -> Tensor:
    """The first real-valued tensor of an output, however nested: what the loss compares.

    Raises: RecipeError if there is none.
    """
    for value in tensors_of(out):
        if value.is_floating_point():
            return value
    raise RecipeError(
        f"the model returns {type(out).__name__} with no tensor of real numbers to distil from; "
        "set train.method to none"
    )
