"""Shape rules: what stands in the place of a layer, by its sizes and by what is beside it.

block    the block of the method around the layer itself, with CFB where channels differ
split    several of them on the same input: queries, keys and values of one linear
wide     several of equal shape on the same input, side by side, where Cout = m Cin
narrow   several of equal shape on every m-th channel, summed, where Cin = m Cout
fusion   CS-Fusion in place of a join of two and the convolution behind it
down     CP-Down in place of a convolution of stride two
up       CP-Up in place of an enlargement by two and its convolution, or a transposed convolution
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from bitcompress.blocks.layers import Layer
from bitcompress.graph.absorb import Surroundings

Kind = Literal["block", "split", "wide", "narrow", "fusion", "down", "up"]


@dataclass(frozen=True)
class Form:
    """What stands in the place of a layer."""

    kind: Kind = "block"
    parts: int = 1
    """How many blocks it is made of."""
    refused: str = ""
    """Why the reshaping form that its surroundings suggest cannot stand here."""


def form_of(layer: Layer, around: Surroundings, *, reshape: bool, parts: int = 1) -> Form:
    """The form for a layer. `parts`: into how many linears a linear falls (3: q, k, v)."""
    if isinstance(layer, nn.Linear) and parts > 1:
        return Form("split", parts)
    if not reshape:
        return Form()
    refused = []
    for suits, rule in RESHAPING:
        if suits(layer, around):
            form = rule(layer, around)
            if not form.refused:
                return form
            refused.append(form.refused)
    return Form(refused="; ".join(refused))


def _is_join(layer: Layer, around: Surroundings) -> bool:
    return isinstance(layer, nn.Conv2d) and len(around.joined) == 2 and is_same(layer)


def _fusion(layer: Layer, around: Surroundings) -> Form:
    assert isinstance(layer, nn.Conv2d)
    one, other = around.joined
    if one != other or layer.in_channels != 2 * layer.out_channels or one % 2:
        return Form(
            refused=f"no CS-Fusion of {one} and {other} channels to {layer.out_channels}: "
            "it takes two times C, even, to C"
        )
    return Form("fusion", 2)


def _is_down(layer: Layer, around: Surroundings) -> bool:
    return isinstance(layer, nn.Conv2d) and set(layer.stride) == {2} and layer.groups == 1


def _down(layer: Layer, around: Surroundings) -> Form:
    assert isinstance(layer, nn.Conv2d)
    inputs, outputs = layer.in_channels, layer.out_channels
    parts = 4 * inputs // outputs
    sizes = f"{inputs} to {outputs} channels"
    if outputs not in (inputs, 2 * inputs, 4 * inputs) or inputs % parts:
        return Form(refused=f"no CP-Down of {sizes}: C goes to C, 2C or 4C")
    if not _is_odd(layer) or not _halves(layer):
        return Form(refused="no CP-Down: its kernel and padding do not halve each picture")
    return Form("down", parts)


def _is_up(layer: Layer, around: Surroundings) -> bool:
    if isinstance(layer, nn.ConvTranspose2d):
        return set(layer.stride) == {2} and layer.groups == 1
    return isinstance(layer, nn.Conv2d) and around.enlarged is not None and is_same(layer)


def _up(layer: Layer, around: Surroundings) -> Form:
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    inputs, outputs = layer.in_channels, layer.out_channels
    if inputs not in (outputs, 2 * outputs, 4 * outputs):
        return Form(refused=f"no CP-Up of {inputs} to {outputs} channels: C goes to C, C/2 or C/4")
    if isinstance(layer, nn.ConvTranspose2d) and not _doubles(layer):
        return Form(refused="no CP-Up: the transposed convolution does not double each picture")
    return Form("up", 4 * outputs // inputs)


Suits = Callable[[Layer, Surroundings], bool]
Rule = Callable[[Layer, Surroundings], Form]
RESHAPING: tuple[tuple[Suits, Rule], ...] = (
    (_is_join, _fusion),
    (_is_up, _up),
    (_is_down, _down),
)
"""Longest patterns first."""


def is_same(layer: nn.Conv2d) -> bool:
    """Whether a convolution keeps height and width, by zeros around, and is of one group."""
    if not _is_odd(layer) or set(layer.stride) != {1} or layer.groups != 1:
        return False
    if layer.padding_mode != "zeros":
        return False
    return layer.padding == "same" or _reaches_half(layer)


def _is_odd(layer: nn.Conv2d) -> bool:
    return all(size % 2 == 1 for size in layer.kernel_size)


def _halves(layer: nn.Conv2d) -> bool:
    """Whether a picture of even sides comes out at half of them."""
    return layer.padding_mode == "zeros" and _reaches_half(layer)


def _reaches_half(layer: nn.Conv2d) -> bool:
    """Whether the padding is half of what the kernel spans."""
    if isinstance(layer.padding, str):
        return False
    reach = zip(layer.padding, layer.kernel_size, layer.dilation, strict=True)
    return all(2 * pad == step * (size - 1) for pad, size, step in reach)


def _doubles(layer: nn.ConvTranspose2d) -> bool:
    """Whether each picture comes out at twice its sides."""
    return all(
        layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        - 2 * int(layer.padding[axis])
        + layer.output_padding[axis]
        == 1
        for axis in range(2)
    )
