"""Which module is running, and the how-many-th call of its kind a function call is in it.

A functional product has no name of its own. It gets one from where it stands: the module whose
forward runs, the kind of the operation, and its ordinal among the calls of that kind in one run of
that forward. Recording and replacing count with the same code, so they mean the same call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

aten = torch.ops.aten

KINDS: dict[Any, str] = {
    torch.matmul: "matmul",
    torch.bmm: "matmul",
    torch.mm: "matmul",
    Tensor.matmul: "matmul",
    Tensor.bmm: "matmul",
    Tensor.mm: "matmul",
    Tensor.__matmul__: "matmul",
    Tensor.__rmatmul__: "matmul",
    torch.linalg.matmul: "matmul",
    aten.matmul: "matmul",
    aten.bmm: "matmul",
    aten.mm: "matmul",
    aten.matmul.default: "matmul",
    aten.bmm.default: "matmul",
    aten.mm.default: "matmul",
    torch.einsum: "einsum",
    aten.einsum: "einsum",
    aten.einsum.default: "einsum",
    F.scaled_dot_product_attention: "sdpa",
    aten.scaled_dot_product_attention: "sdpa",
    aten.scaled_dot_product_attention.default: "sdpa",
    F.linear: "linear",
    aten.linear: "linear",
    aten.linear.default: "linear",
    F.conv2d: "conv2d",
    torch.conv2d: "conv2d",
    aten.conv2d: "conv2d",
    aten.conv2d.default: "conv2d",
    aten.conv2d.padding: "conv2d",
}
"""Functions that rules know, by the kind that names their call sites."""

UNSUPPORTED: dict[Any, str] = {
    torch.mv: "mv",
    Tensor.mv: "mv",
    torch.addmv: "addmv",
    Tensor.addmv: "addmv",
    torch.inner: "inner",
    Tensor.inner: "inner",
    torch.tensordot: "tensordot",
    torch.chain_matmul: "chain_matmul",
    torch.linalg.multi_dot: "multi_dot",
    torch.cdist: "cdist",
    torch.addmm: "addmm",
    torch.addbmm: "addbmm",
    torch.baddbmm: "baddbmm",
    Tensor.addmm: "addmm",
    Tensor.addmm_: "addmm",
    Tensor.addbmm: "addbmm",
    Tensor.addbmm_: "addbmm",
    Tensor.baddbmm: "baddbmm",
    Tensor.baddbmm_: "baddbmm",
    F.conv1d: "conv1d",
    F.conv3d: "conv3d",
    F.conv_transpose1d: "conv_transpose1d",
    F.conv_transpose2d: "conv_transpose2d",
    F.conv_transpose3d: "conv_transpose3d",
    torch.convolution: "convolution",
    F.bilinear: "bilinear",
    F.multi_head_attention_forward: "multi_head_attention_forward",
    aten.addmm: "addmm",
    aten.addmm.default: "addmm",
    aten.baddbmm: "baddbmm",
    aten.baddbmm.default: "baddbmm",
    aten.mv: "mv",
    aten.mv.default: "mv",
    aten.convolution: "convolution",
    aten.convolution.default: "convolution",
    aten.conv1d.default: "conv1d",
    aten.conv3d.default: "conv3d",
    aten.conv_transpose1d.default: "conv_transpose1d",
    aten.conv_transpose2d.input: "conv_transpose2d",
    aten.conv_transpose3d.input: "conv_transpose3d",
}
"""Functions that multiply, for which there is no packed operator: reported, never silent."""


OUTSIDE = "(hook)"
"""Who makes the calls that stand in no module's forward: hooks of the outermost module."""


@dataclass
class Frame:
    """One run of one module's forward: its name and its counts of calls."""

    owner: str
    counts: dict[str, int] = field(default_factory=dict)
    number: int = -1
    """Which run of a forward this is, where runs are recorded."""
    guard: AbstractContextManager[object] | None = None
    """What is held open until this run ends; only the outermost run of a module may hold it."""

    def ordinal(self, kind: str) -> int:
        """The number of this call among those of its kind, counted up."""
        number = self.counts.get(kind, 0)
        self.counts[kind] = number + 1
        return number


class Scopes(threading.local):
    """The stack of running modules, one a thread."""

    def __init__(self) -> None:
        self.stack: list[Frame] = []
        self.mode: object = None
        """What intercepts the function calls of this thread now."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Scopes:
        copy = Scopes()
        memo[id(self)] = copy
        return copy

    def __reduce__(self) -> tuple[type[Scopes], tuple[()]]:
        return Scopes, ()


QUIET = frozenset(
    {
        nn.LayerNorm, nn.BatchNorm2d, nn.GroupNorm, nn.Identity, nn.Dropout, nn.GELU, nn.ReLU,
        nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.PixelShuffle,
        nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.Upsample,
    }
)  # fmt: skip
"""Layers of torch whose forward makes no call that rules know: nobody need know that they run."""


def watched_modules(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose runs can be followed: all but TorchScript, which takes no hooks."""
    for name, module in net.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            yield name, module


Guard = Callable[[], AbstractContextManager[object]]


class _Enter:
    """A forward pre-hook that pushes the module's frame, the outermost one with the guard open."""

    def __init__(self, scopes: Scopes, owner: str, guard: Guard) -> None:
        self.scopes, self.owner, self.guard = scopes, owner, guard

    def __call__(self, module: nn.Module, args: object) -> None:
        frame = Frame(self.owner)
        if self.scopes.mode is None:
            frame.guard = self.guard()
            frame.guard.__enter__()
        self.scopes.stack.append(frame)


class _Leave:
    """A forward hook that pops the module's frame, also when its forward raised.

    Where a hook before `_Enter` raised, there is no frame of this module to pop.
    """

    def __init__(self, scopes: Scopes, owner: str) -> None:
        self.scopes, self.owner = scopes, owner

    def __call__(self, module: nn.Module, args: object, output: object) -> None:
        stack = self.scopes.stack
        guard = stack.pop().guard if stack and stack[-1].owner == self.owner else None
        if guard is not None:
            guard.__exit__(None, None, None)


def track(net: nn.Module, scopes: Scopes, guard: Guard) -> None:
    """Hook every module of `net` so that `scopes` knows who runs, with `guard` open meanwhile.

    A frame spans the forward alone: what hooks of others call belongs to the module outside.

    A module may also run by itself, outside of the whole model: called directly, or once more
    while gradients are computed (checkpointing). Then its own run opens the guard.
    Modules that are hooked already are left as they are.
    """
    for name, module in watched_modules(net):
        if type(module) in QUIET:
            continue
        hooks = module._forward_pre_hooks.values()
        if any(isinstance(hook, _Enter) and hook.scopes is scopes for hook in hooks):
            continue
        module.register_forward_pre_hook(_Enter(scopes, name, guard))
        module.register_forward_hook(_Leave(scopes, name), prepend=True, always_call=True)


def foreign_hooks(module: nn.Module) -> int:
    """How many forward hooks of others a module has."""
    return sum(
        not isinstance(hook, _Enter | _Leave)
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
        for hook in hooks.values()
    )
