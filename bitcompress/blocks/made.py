"""How the blocks of a form are made of the weights of the layer that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn

from bitcompress.blocks.layers import Layer
from bitcompress.blocks.parts import WIRINGS, Parts, channel_index
from bitcompress.blocks.plan import BlockPlan, drops
from bitcompress.blocks.told import channels_of
from bitcompress.errors import NotPackable
from bitcompress.graph.pointwise import Absorbed
from bitcompress.layers.binary import BlockSpec, Clock, binary_block, end_activation
from bitcompress.layers.binary.axes import PICTURES, TOKENS


def made(
    layer: Layer,
    plan: BlockPlan,
    norm: nn.Module | None,
    activation: nn.Module | None,
    clock: Clock | None,
) -> nn.Module:
    """The block, or the parts, that a plan makes of a float layer; its weights are copied.

    Raises: NotPackable where no block can stand for the layer.
    """
    assert plan.spec is not None
    own = clock if plan.spec.groups > 1 else None
    kept = None if drops(plan.spec) else activation
    if plan.form.kind == "block":
        return binary_block(layer, plan.spec, norm=norm, activation=kept, clock=own)
    pieces = PIECES[plan.form.kind](layer, plan.form.parts)
    blocks = [_block(piece, plan.spec, own) for piece in pieces]
    return Parts(plan.form.kind, blocks, type(layer).__name__, layer.weight.shape)


def made_end(spec: BlockSpec, layer: Layer, activation: nn.Module, *, normed: bool) -> nn.Module:
    """What answers the call of an activation behind the model's own sum; some methods have none."""
    if drops(spec):
        return Absorbed()
    axis = TOKENS if isinstance(layer, nn.Linear) else PICTURES
    return end_activation(
        spec.rule.activation, activation, channels_of(layer)[1], axis, normed=normed
    )


def _block(layer: Layer, spec: BlockSpec, clock: Clock | None) -> nn.Module:
    return binary_block(layer, spec, clock=clock)


def outputs_of(layer: Layer, parts: int) -> list[Layer]:
    """Layers that give the outputs of a layer in equal parts.

    Raises: NotPackable where they cannot be shared out.
    """
    if layer.weight.shape[0] % parts:
        raise NotPackable(f"{layer.weight.shape[0]} outputs cannot fall into {parts} equal parts")
    weights = layer.weight.detach().chunk(parts)
    biases = [None] * parts if layer.bias is None else list(layer.bias.detach().chunk(parts))
    return [_like(layer, w, b) for w, b in zip(weights, biases, strict=True)]


def _inputs_of(how: str) -> Callable[[Layer, int], list[Layer]]:
    """Layers that sum to a layer, each on its share of the channels; the first has the bias."""

    def pieces(layer: Layer, parts: int) -> list[Layer]:
        index = channel_index(layer.weight.shape[1], WIRINGS[how].spread, parts)
        biases = [layer.bias, *[None] * (parts - 1)]
        weight = layer.weight.detach()
        return [
            _like(layer, weight[:, each.to(weight.device)], bias)
            for each, bias in zip(index, biases, strict=True)
        ]

    return pieces


def _down(layer: Layer, parts: int) -> list[Layer]:
    """Layers of C/n channels at full size. The stride's geometry goes, so the weights are new.

    They begin as the mean of the layer's filters over what each part sees and gives.
    """
    assert isinstance(layer, nn.Conv2d)
    channels = layer.in_channels // parts
    weight = layer.weight.detach()
    # Outputs c*4 .. c*4+3 are the four pixels of part output c.
    together = weight.view(channels, -1, *weight.shape[1:]).mean(1)
    bias = None if layer.bias is None else layer.bias.detach().view(channels, -1).mean(1)
    pieces = []
    for number, each in enumerate(together.chunk(parts, 1)):
        piece = nn.Conv2d(
            channels, channels, _size(layer), padding="same", dilation=_dilation(layer),
            bias=bias is not None and number == 0,
        )  # fmt: skip
        pieces.append(_filled(piece, each, bias if number == 0 else None))
    return pieces  # type: ignore[return-value]


def _up(layer: Layer, parts: int) -> list[Layer]:
    """Layers of C outputs, four to a channel of the result: one for each pixel that it becomes."""
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    weight = pixel_weights(layer)
    bias = None if layer.bias is None else layer.bias.detach().repeat_interleave(4)
    whole = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=bias is not None)
    return outputs_of(_filled(whole, weight, bias), parts)


def pixel_weights(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """The 3 x 3 convolution before a pixel shuffle by two that a layer and its enlargement are.

    layer: a convolution behind a nearest-neighbour enlargement by two, or a transposed convolution
    of stride two. Output 4 c + 2 i + j is pixel (i, j) of channel c. Returns: (4 O, I, 3, 3).
    Raises: NotPackable where a pixel sees more than 3 x 3 places.
    """
    transposed = isinstance(layer, nn.ConvTranspose2d)
    weight = layer.weight.detach()
    weight = weight.transpose(0, 1) if transposed else weight
    reach = [_reach(layer, axis) for axis in range(2)]
    made = weight.new_zeros(weight.shape[0], 2, 2, weight.shape[1], 3, 3)
    for i in range(2):
        for j in range(2):
            for a, row in enumerate(reach[0][i]):
                for b, column in enumerate(reach[1][j]):
                    if row is not None and column is not None:
                        made[:, i, j, :, row, column] += weight[:, :, a, b]
    return made.flatten(0, 2)


def _reach(layer: nn.Conv2d | nn.ConvTranspose2d, axis: int) -> list[list[int | None]]:
    """For each of two pixels, the place (0 to 2) that each tap of a kernel reads; None: neither."""
    size, step = layer.kernel_size[axis], layer.dilation[axis]
    found: list[list[int | None]] = []
    for pixel in range(2):
        places: list[int | None] = []
        for tap in range(size):
            if isinstance(layer, nn.ConvTranspose2d):
                assert not isinstance(layer.padding, str)
                twice = pixel + int(layer.padding[axis]) - tap * step
                place = None if twice % 2 else twice // 2
            else:
                place = (pixel + (tap - size // 2) * step) // 2
            if place is not None and abs(place) > 1:
                raise NotPackable(f"a kernel of {size} sees more than 3 places at each pixel")
            places.append(None if place is None else place + 1)
        found.append(places)
    return found


def _like(layer: Layer, weight: Tensor, bias: Tensor | None) -> Layer:
    """A layer as the given one, of other weights."""
    if isinstance(layer, nn.Linear):
        return _filled(nn.Linear(weight.shape[1], weight.shape[0], bias is not None), weight, bias)
    assert isinstance(layer, nn.Conv2d)
    piece = nn.Conv2d(
        weight.shape[1], weight.shape[0], _size(layer), padding=layer.padding,  # type: ignore[arg-type]
        dilation=_dilation(layer), bias=bias is not None,
    )  # fmt: skip
    return _filled(piece, weight, bias)


T = TypeVar("T", nn.Linear, nn.Conv2d)


def _filled(layer: T, weight: Tensor, bias: Tensor | None) -> T:
    layer.weight = nn.Parameter(weight.detach().clone().contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _size(layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[int, int]:
    return int(layer.kernel_size[0]), int(layer.kernel_size[1])


def _dilation(layer: nn.Conv2d) -> tuple[int, int]:
    return int(layer.dilation[0]), int(layer.dilation[1])


PIECES: dict[str, Callable[[Layer, int], list[Layer]]] = {
    "split": outputs_of,
    "wide": outputs_of,
    "narrow": _inputs_of("narrow"),
    "fusion": _inputs_of("fusion"),
    "down": _down,
    "up": _up,
}
