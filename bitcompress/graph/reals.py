"""Norms, GELU, means and others of a model that runs on codes: those of packed/, not torch's.

What stands between two layers on codes decides codes, so it must be the same bits wherever the
model runs: layer by layer, fused into one pass, or simulated. Each function here takes what torch's
takes and gives NotImplemented where torch's own is meant: training, tracing, other types, devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bitcompress import native
from bitcompress.packed.few import few_conv2d, is_few
from bitcompress.packed.gelu import TAILS, gelu
from bitcompress.packed.group_norm import group_norm
from bitcompress.packed.layer import watched
from bitcompress.packed.norm import layer_norm
from bitcompress.packed.pixels import pixel_mean
from bitcompress.packed.sigmoid import sigmoid, silu
from bitcompress.packed.unit import unit

aten = torch.ops.aten


def _plain(*tensors: Any) -> bool:
    """Whether all of them are float32 numbers on the CPU that nobody follows, or written down."""
    return all(native.takes(x) and (native.is_traced() or not watched(x)) for x in tensors)


def _layer_norm(
    input: Any,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    affine = [part for part in (weight, bias) if part is not None]
    if not _plain(input, *affine) or tuple(normalized_shape) != (input.shape[-1],):
        return NotImplemented
    return layer_norm(input, weight, bias, eps)


def _group_norm(
    input: Any,  # noqa: A002
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    affine = [part for part in (weight, bias) if part is not None]
    if not _plain(input, *affine) or input.dim() < 3 or input.shape[1] % num_groups:
        return NotImplemented
    return group_norm(input, num_groups, weight, bias, eps)


def _gelu(input: Any, *, approximate: str = "none") -> Any:  # noqa: A002
    return gelu(input, approximate) if _plain(input) and approximate in TAILS else NotImplemented


def _sigmoid(input: Any, out: Any = None) -> Any:  # noqa: A002
    return sigmoid(input) if _plain(input) and out is None else NotImplemented


def _normalize(
    input: Any,  # noqa: A002
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
    out: Any = None,
) -> Any:
    plain = p == 2 and isinstance(dim, int) and out is None and _plain(input) and input.dim() > 0
    return unit(input, dim, eps) if plain else NotImplemented


def _silu(input: Any, inplace: bool = False) -> Any:  # noqa: A002
    return silu(input) if _plain(input) and not inplace else NotImplemented


def _is_picture(x: Any) -> bool:
    """Whether x are pictures with pixels, whose means are ours."""
    return _plain(x) and x.dim() == 4 and (native.is_traced() or x.numel() > 0)


def _pooled(input: Any, output_size: Any) -> Any:  # noqa: A002
    """Pooling of a picture to one place."""
    sizes = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
    if tuple(sizes) != (1, 1) or not _is_picture(input):
        return NotImplemented
    return pixel_mean(input)[:, :, None, None]


SIDES = ({2, 3}, {2, -1}, {-2, 3}, {-2, -1})
"""How both sides of a picture are named."""


def _mean(input: Any, dim: Any = None, keepdim: bool = False, **more: Any) -> Any:  # noqa: A002
    """A mean over both sides of pictures."""
    both = isinstance(dim, Sequence) and len(dim) == 2 and set(dim) in SIDES
    if more or not both or not _is_picture(input):
        return NotImplemented
    made = pixel_mean(input)
    return made[:, :, None, None] if keepdim else made


_Pair = tuple[int, int]


def _pair(size: Any) -> _Pair | None:
    """What torch reads as a size for both axes; None for words and what torch refuses."""
    both = (size, size) if isinstance(size, int) else size
    if not isinstance(both, (tuple, list)) or not all(type(n) is int for n in both):
        return None
    return (both[0], both[-1]) if len(both) in (1, 2) else None


def _is_few(x: Tensor, weight: Tensor, bias: Any) -> bool:
    """Whether shapes fit and the kernel for few channels is meant; torch says what is wrong."""
    if weight.dim() != 4 or x.shape[1] != weight.shape[1]:
        return False
    return is_few(weight) and (bias is None or bias.shape == weight.shape[:1])


def _has_place(x: Tensor, weight: Tensor, stride: _Pair, padding: _Pair, dilation: _Pair) -> bool:
    """Whether the output has a place, and nothing goes backwards."""
    axes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    return all(
        move > 0 and step > 0 and pad >= 0 and n + 2 * pad > step * (taps - 1)
        for n, taps, move, pad, step in axes
    )


def _conv2d(
    input: Any,  # noqa: A002
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Ours to few channels; else torch's own on pictures with channels last: faster, and what
    packed layers want and give."""
    tensors = [part for part in (input, weight, bias) if part is not None]
    if native.is_traced() or not _plain(*tensors) or input.dim() != 4 or groups != 1:
        return NotImplemented
    if _is_few(input, weight, bias):
        sizes = [_pair(size) for size in (stride, padding, dilation)]
        known = [size for size in sizes if size is not None]
        if len(known) == 3 and _has_place(input, weight, *known):
            return few_conv2d(input, weight, bias, *known)
    last = input.contiguous(memory_format=torch.channels_last)
    return torch.conv2d(last, weight, bias, stride, padding, dilation, groups)


REALS: dict[Any, Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    aten.layer_norm: _layer_norm,
    aten.layer_norm.default: _layer_norm,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    aten.group_norm: _group_norm,
    aten.group_norm.default: _group_norm,
    F.conv2d: _conv2d,
    torch.conv2d: _conv2d,
    aten.conv2d: _conv2d,
    aten.conv2d.default: _conv2d,
    F.adaptive_avg_pool2d: _pooled,
    torch._C._nn.adaptive_avg_pool2d: _pooled,
    aten.adaptive_avg_pool2d: _pooled,
    aten.adaptive_avg_pool2d.default: _pooled,
    torch.mean: _mean,
    Tensor.mean: _mean,
    aten.mean: _mean,
    aten.mean.dim: _mean,
    F.gelu: _gelu,
    aten.gelu: _gelu,
    aten.gelu.default: _gelu,
    torch.sigmoid: _sigmoid,
    Tensor.sigmoid: _sigmoid,
    torch.special.expit: _sigmoid,
    aten.sigmoid: _sigmoid,
    aten.sigmoid.default: _sigmoid,
    F.normalize: _normalize,
    F.silu: _silu,
    aten.silu: _silu,
    aten.silu.default: _silu,
}
"""Functions of torch, and what stands in for them."""
