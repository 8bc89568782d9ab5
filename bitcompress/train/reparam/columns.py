"""A wider net grown from a net: r copies side by side that talk to each other, exact at first.

The copies lie on the batch axis, copy 0 first, so the model's own forward runs them all, whatever
it does with channels. A layer that multiplies becomes a grid of r x r layers of its own shape, with
learnt shares m of each output channel:

    y_p = L_pp(x_p) + sum_j m_pj (L_pj(x_j) - L_pp(x_p))

At first all L_pj are equal and so are all x_j: each difference is zero and y_p = L(x_p) bit for
bit, for any m; m differs from channel to channel, so that the copies part ways once they learn.
L_00 and all that copy 0 has are the parameters of the net itself: it is read out by leaving the
rest away. The first layer sees equal inputs and the last one is averaged, so these have one layer
for each copy, as all other layers with parameters have. The output is the mean over copies.
Source: GPD (ICLR 2025), inverse reparameterization along channels. Differs: where layers are linear
this is its wide kernel in blocks, What[p, j] = m_pj W_pj; a binary layer mixes what its blocks
give, not what they sum. Symmetry is broken by m: noise on weights would not leave their signs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bitcompress.graph.record import Inputs
from bitcompress.layers.binary import BinaryBlock, Clock
from bitcompress.train.modes import frozen

PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear, BinaryBlock)
WHOLE = (BinaryBlock, nn.MultiheadAttention, nn.RNNBase)
"""What has children that it does not call."""
UNEVEN = 0.25
"""How far shares differ from 1/r at first."""


def copied(net: nn.Module, *, sharing: bool, clocks: bool = False) -> nn.Module:
    """A copy with statistics of its own; sharing: with the very same parameters.

    A clock inside is copied with `clocks`, and else it stays everybody's.
    """
    kept: list[Any] = list(net.parameters()) if sharing else []
    if not clocks:
        kept += [m for m in net.modules() if isinstance(m, Clock)]
    return copy.deepcopy(net, {id(part): part for part in kept})


HOOKS = [
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
]  # fmt: skip


def _hooks_taken(unit: nn.Module) -> dict[str, Any]:
    """The hooks of a layer, taken from it and from what is inside.

    They belong to its place in the net, where they run once for all copies; and a copy of a layer
    must not copy the net that a hook knows.
    """
    hooks = {name: vars(unit)[name] for name in HOOKS}
    for module in unit.modules():
        for name in HOOKS:
            vars(module)[name] = type(vars(module)[name])()
    return hooks


class PerCopy(nn.Module):
    """A layer for each copy; the first has the parameters of the net."""

    def __init__(self, module: nn.Module, ratio: int) -> None:
        super().__init__()
        self.stands_for = getattr(module, "stands_for", None)
        self.layers = nn.ModuleList(copied(module, sharing=p == 0) for p in range(ratio))

    def forward(self, *args: Any, **named: Any) -> Any:
        """As the layer, copy by copy."""
        r, rows = len(self.layers), batch_of((args, named))
        outs = []
        for p, layer in enumerate(self.layers):
            given, by_name = tree_map(_cut(rows, partial(_chunk, r, p)), (args, named))
            outs.append(layer(*given, **by_name))
        return joined(outs, torch.cat)


class Grid(nn.Module):
    """r x r layers and the shares in which their outputs are mixed."""

    def __init__(self, module: nn.Module, ratio: int, channels: int, axis: int) -> None:
        super().__init__()
        self.ratio, self.axis = ratio, axis
        self.stands_for = getattr(module, "stands_for", None)
        self.layers = nn.ModuleList(copied(module, sharing=n == 0) for n in range(ratio * ratio))
        uneven = 1 + UNEVEN * (2 * torch.rand(ratio, ratio - 1, channels) - 1)
        self.shares = nn.Parameter(uneven / ratio)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer, each copy from all copies."""
        parts, r = x.chunk(self.ratio), self.ratio
        outs = []
        for p in range(r):
            own = self.layers[p * r + p](parts[p])
            shape = [-1 if a == self.axis % own.dim() else 1 for a in range(own.dim())]
            total = own
            for share, j in zip(self.shares[p], (j for j in range(r) if j != p), strict=True):
                other = self.layers[p * r + j](parts[j])
                total = total + share.view(shape) * (other - own)
            outs.append(total)
        return torch.cat(outs)


def _chunk(ratio: int, p: int, t: Tensor) -> Tensor:
    return t.chunk(ratio)[p]


def batch_of(values: Any) -> int:
    """How many samples inputs hold: the length of the first tensor with two axes or more."""
    tensors = [t for t in tree_leaves(values) if isinstance(t, Tensor) and t.dim()]
    return next((len(t) for t in tensors if t.dim() > 1), len(tensors[0]) if tensors else 0)


def _cut(rows: int, how: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    """What is done to tensors that have a row for each sample; all else stays."""

    def done(value: Any) -> Any:
        sampled = isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows
        return how(value) if sampled else value

    return done


def joined(outs: Sequence[Any], how: Callable[[list[Tensor]], Tensor]) -> Any:
    """Outputs of the same structure, their tensors made one."""
    return tree_map(lambda *t: how(list(t)) if isinstance(t[0], Tensor) else t[0], *outs)


def mean(parts: Sequence[Tensor]) -> Tensor:
    """The mean, which is the first where all are equal, bit for bit."""
    total = parts[0]
    for part in parts[1:]:
        total = total + (part - parts[0]) / len(parts)
    return total


class Columns(nn.Module):
    """The wide net, sharing the parameters of the net that it grew from.

    example: (args, kwargs) of a run. Returns: as the net.
    Raises: RecipeError if the net cannot be grown.
    """

    def __init__(self, net: nn.Module, ratio: int, example: Inputs) -> None:
        super().__init__()
        self.ratio = ratio
        self.wide = copied(net, sharing=True, clocks=True)
        units = dict(_units(self.wide))
        order = _run_order(self.wide, units.values(), example)
        inner = [m for m in order if isinstance(m, PRODUCTS)][1:-1]
        made: dict[nn.Module, nn.Module] = {}
        for module, out in order.items():
            hooks = _hooks_taken(module)
            if module in inner:
                axis = module.axis if isinstance(module, BinaryBlock) else _axis(module)
                made[module] = Grid(module, ratio, out.shape[axis], axis)
            else:
                made[module] = PerCopy(module, ratio)
            vars(made[module]).update(hooks)
        for name, module in units.items():
            if module in made:
                self.wide.set_submodule(name, made[module])
        self.stages = [
            (
                origin,
                [m for m in self.wide.get_submodule(name).modules() if type(m) is type(origin)],
            )
            for name, origin in net.named_modules()
            if isinstance(origin, BinaryBlock)
        ]
        self.wide.register_forward_pre_hook(self._wind)

    def forward(self, *args: Any, **named: Any) -> Any:
        """The mean over copies of what the wide net gives."""
        for origin, copies in self.stages:
            for block in copies:
                block.stage = origin.stage
        repeat = _cut(batch_of((args, named)), lambda t: torch.cat([t] * self.ratio))
        given, by_name = tree_map(repeat, (args, named))
        out = self.wide(*given, **by_name)
        return tree_map(lambda t: mean(t.chunk(self.ratio)) if isinstance(t, Tensor) else t, out)

    def _wind(self, module: nn.Module, args: Any) -> None:
        """Blocks run one copy at a time, and all copies have the same timesteps."""
        for clock in self.wide.modules():
            if isinstance(clock, Clock) and clock.now is not None and len(clock.now) > 1:
                clock.now = clock.now.chunk(self.ratio)[0]


def _units(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What gets copies: products, and other layers without children that hold numbers."""
    inside = ""
    for name, module in net.named_modules(remove_duplicate=False):
        if inside and name.startswith(inside):
            continue
        inside = ""
        if isinstance(module, (*PRODUCTS, *WHOLE)):
            inside = f"{name}."
            yield name, module
        elif name and not isinstance(module, Clock) and _holds_numbers(module):
            yield name, module


def _holds_numbers(module: nn.Module) -> bool:
    return not any(module.children()) and any(True for _ in module.state_dict())


def _run_order(
    net: nn.Module, units: Iterable[nn.Module], example: Inputs
) -> dict[nn.Module, Tensor]:
    """The units that a run calls, in its order, each with its (first) output tensor."""
    order: dict[nn.Module, Tensor] = {}

    def called(module: nn.Module, args: Any, out: Any) -> None:
        tensors = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if tensors:
            order.setdefault(module, tensors[0])

    handles = [unit.register_forward_hook(called) for unit in set(units)]
    args, named = example
    with frozen([net]), torch.no_grad():
        net(*args, **named)
    for handle in handles:
        handle.remove()
    return order


def _axis(layer: nn.Module) -> int:
    """Where a layer's output has its channels."""
    return -1 if isinstance(layer, nn.Linear) else 1
