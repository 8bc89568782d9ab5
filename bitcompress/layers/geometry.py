"""Where a convolution looks, and how the other convolutions of torch are ones of pictures.

A Conv1d is a convolution of pictures of height one. A transposed convolution of stride s writes
s x s pixels for each place of its input: each of them is a convolution of the input with every
s-th tap of the flipped kernel. Where s divides the kernel those have one size, so all of them are
one convolution with s x s times the outputs, whose pixels are then put in their places. The zeros
of its border are true zeros, and no zero is multiplied that a stride would put between pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
LINES = (nn.Conv1d, nn.ConvTranspose1d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, *TRANSPOSED)
"""The layers that become a convolution of pictures."""
Convolution = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d


@dataclass(frozen=True)
class ConvGeometry:
    """Where a convolution looks: the arguments of Conv2d, with `same` written out in numbers.

    `trim` drops the first row and column where `same` pads an odd total, one more at the end.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    mode: PaddingMode = "zeros"
    margin: tuple[int, int, int, int] = (0, 0, 0, 0)
    trim: tuple[int, int] = (0, 0)
    line: bool = False
    """Whether what goes in and comes out are lines, pictures of height one."""
    up: tuple[int, int] | None = None
    """The stride of a transposed convolution: how many pixels each place of the sum becomes."""
    cut: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Left, right, top and bottom: what the padding of a transposed convolution cuts off."""

    @classmethod
    def of(
        cls,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int] | str,
        dilation: tuple[int, int],
        groups: int,
        mode: PaddingMode = "zeros",
    ) -> ConvGeometry:
        """The geometry of Conv2d's arguments, string paddings included."""
        if padding == "valid":
            padding = (0, 0)
        total = (
            (dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1))
            if isinstance(padding, str)
            else (2 * padding[0], 2 * padding[1])
        )
        after = (total[0] - total[0] // 2, total[1] - total[1] // 2)
        before = (total[0] // 2, total[1] // 2)
        if mode != "zeros":
            margin = (before[1], after[1], before[0], after[0])
            return cls(stride, (0, 0), dilation, groups, mode, margin)
        trim = (after[0] - before[0], after[1] - before[1])
        return cls(stride, after, dilation, groups, mode, trim=trim)

    @classmethod
    def of_layer(cls, layer: Convolution) -> ConvGeometry:
        """The geometry of a layer of torch that `refusal` has nothing against."""
        kernel, stride, dilation = (
            _pair(value, 1) for value in (layer.kernel_size, layer.stride, layer.dilation)
        )
        line = isinstance(layer, LINES)
        padding = layer.padding if isinstance(layer.padding, str) else _pair(layer.padding, 0)
        if not isinstance(layer, TRANSPOSED):
            found = cls.of(kernel, stride, padding, dilation, layer.groups, _mode(layer))
            return replace(found, line=True) if line else found
        assert not isinstance(padding, str)
        more = _pair(layer.output_padding, 0)
        (top, left), reach = padding, (kernel[0] // stride[0] - 1, kernel[1] // stride[1] - 1)
        cut = (left, left - more[1], top, top - more[0])
        return cls((1, 1), reach, (1, 1), layer.groups, line=line, up=stride, cut=cut)

    def opened(self, x: Tensor) -> Tensor:
        """What a layer is given as pictures (N, C, H, W)."""
        x = x.unsqueeze(-2) if self.line else x
        return x if x.dim() == 4 else x[None]

    def closed(self, y: Tensor, given: Tensor) -> Tensor:
        """The sums (N, O, H, W) as what the layer gives for what it was given."""
        return self.reduced(self.placed(y), given)

    def placed(self, y: Tensor) -> Tensor:
        """The sums (N, O, H, W) as pictures of the layer's own size and channels."""
        if self.up is not None:
            return self._placed(y, *self.up)
        return y if self.trim == (0, 0) else y[..., self.trim[0] :, self.trim[1] :]

    def reduced(self, y: Tensor, given: Tensor) -> Tensor:
        """Pictures with the axes of what the layer was given."""
        if self.line:
            y = y.squeeze(-2)
        return y if y.dim() == given.dim() else y[0]

    def _placed(self, y: Tensor, rows: int, columns: int) -> Tensor:
        """Outputs put in the places that they are for, and the border cut off."""
        n, channels, height, width = y.shape
        y = y.view(n, channels // (rows * columns), rows, columns, height, width)
        y = y.permute(0, 1, 4, 2, 5, 3).reshape(n, -1, height * rows, width * columns)
        left, right, top, bottom = self.cut
        return y[..., top : y.shape[-2] - bottom, left : y.shape[-1] - right]

    def float_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the float layer's weight, where that of the convolution is `shape`."""
        outputs, inputs, height, width = shape
        if self.up is not None:
            rows, columns = self.up
            outputs = outputs // (rows * columns * self.groups)
            outputs, inputs = inputs * self.groups, outputs
            height, width = height * rows, width * columns
        return (outputs, inputs, width) if self.line else (outputs, inputs, height, width)

    def weight_of(self, layer: Convolution) -> Tensor:
        """The weight of a layer as one of pictures. Returns: (O, C/groups, KH, KW)."""
        if not self.line and self.up is None:
            return layer.weight
        weight = layer.weight.detach()
        weight = weight.unsqueeze(-2) if self.line else weight
        if self.up is not None:
            (rows, columns), (inputs, outputs, height, width) = self.up, weight.shape
            parts = weight.view(
                self.groups, inputs // self.groups, outputs,
                height // rows, rows, width // columns, columns,
            ).flip(3, 5)  # fmt: skip
            weight = parts.permute(0, 2, 4, 6, 1, 3, 5).reshape(
                -1, inputs // self.groups, height // rows, width // columns
            )
        return nn.Parameter(weight.clone(), requires_grad=layer.weight.requires_grad)

    def bias_of(self, layer: Convolution) -> Tensor | None:
        """The bias of a layer, one number for each output of the convolution of pictures."""
        if layer.bias is None or self.up is None:
            return layer.bias
        bias = layer.bias.detach().repeat_interleave(self.up[0] * self.up[1])
        return nn.Parameter(bias, requires_grad=layer.bias.requires_grad)


def refusal(layer: Convolution) -> str:
    """Why a layer is no convolution of pictures; empty where it is one."""
    if not isinstance(layer, TRANSPOSED):
        return ""
    kernel, stride, padding, more = (
        _pair(value, 1)
        for value in (layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
    )
    if set(layer.dilation) != {1}:
        return "a transposed convolution with dilation"
    if any(size % step for size, step in zip(kernel, stride, strict=True)):
        return f"a transposed convolution whose stride {layer.stride} does not divide its kernel"
    if any(beyond > cut for beyond, cut in zip(more, padding, strict=True)):
        return "a transposed convolution whose output_padding is larger than its padding"
    return ""


def pad_for(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """x with the margin of modes other than `zeros`; its pixels are codes like the others."""
    if geometry.mode == "zeros":
        return x
    return F.pad(x, geometry.margin, mode=geometry.mode)


def _pair(value: Any, missing: int) -> tuple[int, int]:
    """Rows and columns; `missing` is what rows alone have for their height."""
    return (missing, int(value[0])) if len(value) == 1 else (int(value[0]), int(value[1]))


def _mode(layer: Convolution) -> PaddingMode:
    mode: PaddingMode = layer.padding_mode
    return mode
