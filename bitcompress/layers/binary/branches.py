"""Blocks of equal shape side by side, where identity shortcuts need as many outputs as inputs.

Cout = m Cin becomes m blocks on the same input, their outputs joined; Cin = m Cout becomes m blocks
on every m-th channel, their outputs added. Each has thresholds, activation and shortcut of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from bitcompress.errors import NotPackable
from bitcompress.layers.binary.axes import PICTURES, TOKENS
from bitcompress.layers.binary.block import BinaryBlock
from bitcompress.layers.binary.build import binary_block, sizes_of, stands
from bitcompress.layers.binary.clock import Clock
from bitcompress.layers.binary.packed import PackedBlock
from bitcompress.layers.binary.spec import BlockSpec

Fan = Literal["out", "in"]


class BinaryBranches(nn.Module):
    """m blocks; fan `out` joins what they make of x, `in` adds what they make of x[:, j::m].

    Shapes: x (N, Cin, ...) or (..., Cin). Returns: likewise with Cout channels.
    Source: BI-DiffSR (NeurIPS 2024), section 3.3: the sum is that of its fusion.
    """

    def __init__(
        self, parts: Sequence[BinaryBlock] | Sequence[PackedBlock], fan: Fan, axis: int
    ) -> None:
        super().__init__()
        self.parts, self.fan, self.axis = nn.ModuleList(parts), fan, axis

    def forward(self, x: Tensor) -> Tensor:
        """All branches, joined or added from the first on."""
        axis = self.axis if self.axis == TOKENS else x.dim() - self._places(x) - 1
        if self.fan == "out":
            return torch.cat([part(x) for part in self.parts], axis)
        m, total = len(self.parts), None
        for number, part in enumerate(self.parts):
            every = [slice(None)] * x.dim()
            every[axis] = slice(number, None, m)
            y = part(x[tuple(every)])
            total = y if total is None else total + y
        assert isinstance(total, Tensor)
        return total

    def _places(self, x: Tensor) -> int:
        """How many axes of places x has behind its channels."""
        first = self.parts[0]
        geometry = first.core.geometry if isinstance(first, BinaryBlock) else first.geometry
        return 1 if geometry.line else 2  # type: ignore[union-attr]

    def pack(self) -> BinaryBranches:
        """The same with packed branches."""
        packed = [part.pack() for part in self.parts if isinstance(part, BinaryBlock)]
        return BinaryBranches(packed, self.fan, self.axis)


def binary_branches(
    layer: nn.Module, spec: BlockSpec, *, clock: Clock | None = None
) -> BinaryBranches:
    """The branches of a float layer whose channels are a multiple of each other.

    Weights and bias are those of the layer, cut along the axis that branches; a bias that is
    added is shared out evenly. Raises: NotPackable with the reason where it cannot be cut.
    """
    wide = replace(spec, shortcut=False)
    reason = stands(layer, wide)
    if reason:
        raise NotPackable(reason)
    cin, cout = sizes_of(layer)
    if cin == cout or (cin % cout and cout % cin):
        raise NotPackable(f"{cin} channels become {cout}: neither is a multiple of the other")
    if getattr(layer, "groups", 1) > 1:
        raise NotPackable(f"{cin} channels become {cout} in groups: it cannot be cut into branches")
    parts = _cut(layer, cin, cout)
    for part in parts:
        reason = stands(part, spec)
        if reason:
            raise NotPackable(reason)
    axis = TOKENS if isinstance(layer, nn.Linear) else PICTURES
    blocks = [binary_block(part, spec, clock=clock) for part in parts]
    return BinaryBranches(blocks, "out" if cout > cin else "in", axis)


@torch.no_grad()
def _cut(layer: nn.Module, cin: int, cout: int) -> list[nn.Module]:
    """Float layers of equal inputs and outputs; transposed convolutions keep outputs second."""
    assert isinstance(layer.weight, Tensor)
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
    small, m = min(cin, cout), max(cin, cout) // min(cin, cout)
    found: list[nn.Module] = []
    for j in range(m):
        if cout > cin:
            rows = slice(j * small, (j + 1) * small)
            weight = layer.weight[:, rows] if transposed else layer.weight[rows]
            bias = None if layer.bias is None else layer.bias[rows]  # type: ignore[index]
        else:
            weight = layer.weight[j::m] if transposed else layer.weight[:, j::m]
            bias = None if layer.bias is None else layer.bias / m  # type: ignore[operator]
        found.append(_like(layer, weight, bias, small))
    return found


def _like(layer: nn.Module, weight: Tensor, bias: Tensor | None, channels: int) -> nn.Module:
    """A layer of the same kind with other weights."""
    if isinstance(layer, nn.Linear):
        made: nn.Module = nn.Linear(channels, channels, bias is not None)
    else:
        made = type(layer)(
            channels, channels, layer.kernel_size, layer.stride, layer.padding,
            dilation=layer.dilation, bias=bias is not None, padding_mode=layer.padding_mode,
        )  # fmt: skip
    made.weight = nn.Parameter(weight.clone())
    made.register_parameter("bias", None if bias is None else nn.Parameter(bias.clone()))
    return made.train(layer.training)
