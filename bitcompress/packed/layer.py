"""Packed layers run straight: weights made ready for the kernels once, one native call a run.

What is computed is `ops.linear` and `ops.conv2d`. Those stay the operators of capture, export,
other devices and other types; here is what plain tensors on the CPU take instead.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress import native
from bitcompress.packed import definition, ops
from bitcompress.packed.tape import recorder


@dataclass(frozen=True)
class Weights:
    """What a layer is made of.

    Shapes: codes (O, C/groups, KH, KW) uint8; scale, offset (1,) or (O,); bias (O,); x_scale,
            x_offset (1,); cut_scale, cut_offset (1,) or (C,).
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor
    bias: Tensor | None
    x_scale: Tensor
    x_offset: Tensor
    cut_scale: Tensor
    cut_offset: Tensor
    bits: int
    w_bits: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class _Ready:
    state: tuple[Any, ...]
    held: tuple[Tensor | None, ...]
    """The tensors of `state`, so that none of their identities is given to another."""
    layer: Any
    """The native layer; None where the kernels do not take it."""


_ready: weakref.WeakKeyDictionary[nn.Module, _Ready] = weakref.WeakKeyDictionary()


def native_layer(module: nn.Module, x: Tensor, weights: Callable[[], Weights]) -> Any:
    """The native layer of a packed module, made on first use and anew when its tensors change.

    Returns: None where plain kernels are not what x takes.
    """
    kernels = native.kernels()
    if kernels is None or not native.takes(x) or watched(x):
        return None
    held = (*module._parameters.values(), *module._buffers.values())
    state = (kernels.isa(), *((id(t), _version(t)) for t in held if t is not None))
    found = _ready.get(module)
    if found is None or found.state != state:
        found = _ready[module] = _Ready(state, held, _make(kernels, held, weights))
    return found.layer


def _version(t: Tensor) -> int:
    return 0 if t.is_inference() else t._version


def watched(x: Tensor) -> bool:
    """Whether somebody follows the operators: gradients, a tracer, a dispatch mode, vmap.

    A recorder of whole runs does not count: it is told (packed/tape.py).
    """
    return (
        (x.requires_grad and torch.is_grad_enabled())
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > (recorder() is not None)
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def _make(kernels: Any, held: tuple[Tensor | None, ...], weights: Callable[[], Weights]) -> Any:
    plain = all(
        t is None or (t.device.type == "cpu" and t.dtype in (torch.float32, torch.uint8))
        for t in held
    )
    if not plain:
        return None
    w = weights()
    if w.codes.numel() == 0 or not definition.fits_int32(w.bits, w.w_bits, w.codes[0].numel()):
        return None
    reals = (w.cut_scale, w.cut_offset, w.x_scale, w.x_offset, w.scale, w.offset)
    cut_scale, cut_offset, x_scale, x_offset, scale, offset = (
        t.detach().reshape(-1).contiguous() for t in reals
    )
    return kernels.Layer(
        w.codes.permute(0, 2, 3, 1).contiguous(), cut_scale, cut_offset, w.bits,
        x_scale, x_offset, w.w_bits, scale, offset, w.bias,
        w.stride, w.padding, w.dilation, w.groups,
    )  # fmt: skip


def run_linear(layer: Any, x: Tensor, features: int) -> Tensor:
    """x (..., K) through a native layer. Returns: (..., features)."""
    out = x.new_empty((*x.shape[:-1], features))
    layer.linear(
        x.detach().contiguous().view(-1, x.shape[-1]), out.view(-1, features), native.threads()
    )
    return out


Pair = tuple[int, int]


def run_conv2d(
    layer: Any, x: Tensor, shape: Sequence[int], stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """x (N, C, H, W) through a native layer, its order in memory kept.

    `shape` is that of the weight. Returns: (N, O, OH, OW).
    """
    x, filters = x.detach(), shape[0]
    size = ops.conv2d_size(x.shape, shape, stride, padding, dilation)
    last, pixels = ops.memory_format_like(x) == torch.channels_last, x.permute(0, 2, 3, 1)
    out = x.new_empty((x.shape[0], *size, filters) if last else (x.shape[0], filters, *size))
    if _regular(pixels):
        layer.conv2d(pixels, False, out, not last, native.threads())
    elif last:
        layer.conv2d(pixels.contiguous(), False, out, False, native.threads())
    else:
        layer.conv2d(x.contiguous(), True, out, True, native.threads())
    return out.permute(0, 3, 1, 2) if last else out


def _regular(pixels: Tensor) -> bool:
    """Whether pixels (N, H, W, C) lie at one distance from each other, their channels together."""
    n, h, w, c = pixels.stride()
    images, height, width, channels = pixels.shape
    rows = h == w * width and (images == 1 or n == h * height)
    return rows and width > 1 and w >= channels and c == 1 and channels > 1
