"""What a float convolution to few channels means between packed layers.

The tail of a network often gives three channels; a library fills its registers with sixteen, and
takes longer than a packed network for ten layers. Its sums have an order of their own here, over
input channels side by side, the same on every machine and in every layout.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import functional

from bitcompress import native
from bitcompress.packed.softmax import LANES, lane_sum
from bitcompress.packed.tape import recorder

Pair = tuple[int, int]
FEW = 8
"""Up to so many output channels the kernel is the faster one."""


def is_few(weight: Tensor) -> bool:
    """Whether a convolution of this weight (O, C, KH, KW), without groups, is such a one."""
    filters, channels = weight.shape[:2]
    return channels >= LANES and 0 < filters <= FEW


def define_few_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """The definition: products and sums round one by one, taps and channels go by in order.

    Channel c adds to partial sum c % 16 of an output, and `lane_sum` adds those up; the bias comes
    last.
    Shapes: x (N, C, H, W), weight (O, C, KH, KW). Returns: (N, O, OH, OW), channels last.
    """
    fill = (0, -x.shape[1] % LANES)
    (top, left), (high, wide) = padding, weight.shape[2:]
    padded = functional.pad(x.permute(0, 2, 3, 1), (*fill, left, left, top, top))
    parts = functional.pad(weight.permute(0, 2, 3, 1), fill)
    height, width = _size(x, weight, stride, padding, dilation)
    sums = x.new_zeros((len(weight), x.shape[0], height, width, LANES))
    for ty in range(high):
        for tx in range(wide):
            patch = padded[:, ty * dilation[0] :: stride[0], tx * dilation[1] :: stride[1]]
            for c in range(0, padded.shape[-1], LANES):
                part = parts[:, ty, tx, c : c + LANES].view(-1, 1, 1, 1, LANES)
                sums = sums + patch[:, :height, :width, c : c + LANES] * part
    y = lane_sum(sums).squeeze(-1).permute(1, 2, 3, 0)
    return (y if bias is None else y + bias).contiguous().permute(0, 3, 1, 2)


def _size(x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> list[int]:
    """Height and width of the output."""
    axes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    return [(n + 2 * pad - step * (taps - 1) - 1) // move + 1 for n, taps, move, pad, step in axes]


def few_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> Tensor:
    """A convolution without groups: the definition, or the native kernel.

    Shapes: x (N, C, H, W), weight (O, C, KH, KW), bias (O,), all float32; the output has a place.
    Returns: (N, O, OH, OW), channels last.
    """
    how = partial(_computed, stride=stride, padding=padding, dilation=dilation)
    given = (x, weight) if bias is None else (x, weight, bias)
    found = recorder()
    return how(*given) if found is None else found.step("call", how, given, lambda: how(*given))


def _computed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    kernels = native.kernels()
    given = [t for t in (x, weight, bias) if t is not None]
    if kernels is None or not all(native.takes(t) for t in given):
        return define_few_conv2d(x, weight, bias, stride, padding, dilation)
    pictures = x.detach().permute(0, 2, 3, 1).contiguous()
    out = x.new_empty((x.shape[0], *_size(x, weight, stride, padding, dilation), len(weight)))
    kernels.conv2d_floats(
        pictures, weight.detach().permute(0, 2, 3, 1).contiguous(),
        None if bias is None else bias.detach().contiguous(), out, stride, padding, dilation,
        native.threads(),
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)
