"""The packed operators on CUDA tensors: libbitcompress_cuda, loaded where it is built.

Where it is not, CUDA tensors take the definition in torch. BITCOMPRESS_CUDA_LIBRARY names a library
elsewhere than in the package; BITCOMPRESS_NATIVE=off goes without. A library that is the twin on
the CPU (csrc/cuda/machine.h) takes CPU tensors; tests use it so.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import MutableMapping, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from bitcompress.errors import ShapeError, UsageError
from bitcompress.packed.cuda_records import Conv2d, Grid, Layer, Matrices, Numbers, Product, Run

VERSION = 1
"""Of csrc/include/bitcompress/cuda.h."""
NAME = "libbitcompress_cuda.so"
LAST, FIRST = 0, 1
"""bc_order: channels last, channels first."""

Grids = tuple[Tensor, Tensor]


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    if os.environ.get("BITCOMPRESS_NATIVE", "").lower() == "off":
        return None, "switched off by BITCOMPRESS_NATIVE=off"
    wish = os.environ.get("BITCOMPRESS_CUDA_LIBRARY", "")
    place = Path(wish) if wish else Path(__file__).resolve().parents[1] / NAME
    if not place.is_file():
        return None, f"{place.name} is not built: make tensorrt-plugins"
    return open_library(place)


def open_library(place: Path) -> tuple[ctypes.CDLL | None, str]:
    """The library at a place, or why it cannot be used."""
    try:
        found = ctypes.CDLL(str(place))
        version = int(found.bc_cuda_version())
    except (OSError, AttributeError) as error:
        return None, f"{place} cannot be loaded ({error})"
    if version != VERSION:
        return None, f"{place} has interface {version}, this is {VERSION}: build it again"
    sizes = ("bc_cuda_ready_bytes", "bc_cuda_scratch_bytes", "bc_cuda_product_scratch_bytes")
    for name in sizes:
        getattr(found, name).restype = ctypes.c_int64
    return found, ""


def library() -> ctypes.CDLL | None:
    """The kernels, or None where there are none."""
    return _load()[0]


def why_not() -> str:
    """Why `library()` is None; empty where it is not."""
    return _load()[1]


def takes(x: Tensor) -> bool:
    """Whether the kernels can read this tensor: plain, non-empty, float32, on their device."""
    if x.device.type != "cuda" and not os.environ.get("BITCOMPRESS_CUDA_LIBRARY"):
        return False
    found = library()
    if found is None or x.dtype != torch.float32 or x.numel() == 0:
        return False
    plain = type(x) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()
    return plain and x.device.type == ("cuda" if found.bc_cuda_on_device() else "cpu")


def linear(
    x: Tensor, weight: Tensor, shape: Sequence[int], w_grid: Grids, bias: Tensor | None,
    x_grid: Grids, stretch: Tensor | None, shift: Tensor | None, bits: tuple[int, int],
) -> Tensor:  # fmt: skip
    """ops.linear. bits: of the input and of the weight. Returns: (..., N) float32."""
    rows = x.contiguous()
    numbers = _parameters(w_grid, bias, x_grid, stretch, shift)
    conv = Conv2d(1, 1, 1, shape[1], shape[0], 1, 1, 1, 1, 1, 0, 0, 1, 1)
    out = torch.empty((*x.shape[:-1], shape[0]), dtype=torch.float32, device=x.device)
    size = x.numel() // shape[1], 1, 1
    _run(_layer(conv, weight, numbers, bits), weight, rows, size, out, (LAST, LAST))
    return out


def conv2d(
    x: Tensor, weight: Tensor, shape: Sequence[int], w_grid: Grids, bias: Tensor | None,
    x_grid: Grids, stretch: Tensor | None, shift: Tensor | None, bits: tuple[int, int],
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
    size: tuple[int, int], memory_format: torch.memory_format,
) -> Tensor:  # fmt: skip
    """ops.conv2d. size: of the output. Returns: (N, O, OH, OW) float32 in the given format."""
    n, c, h, w = x.shape
    last = memory_format == torch.channels_last
    pixels = x.contiguous(memory_format=memory_format)
    numbers = _parameters(w_grid, bias, x_grid, stretch, shift)
    conv = Conv2d(
        n, h, w, c, shape[0], shape[2], shape[3], groups, *stride, *padding, *dilation
    )  # fmt: skip
    out = torch.empty(
        (n, shape[0], *size), dtype=torch.float32, device=x.device, memory_format=memory_format
    )
    order = LAST if last else FIRST
    _run(_layer(conv, weight, numbers, bits), weight, pixels, (n, h, w), out, (order, order))
    return out


def matmul(
    a: Tensor, b: Tensor, a_grid: Grids, b_grid: Grids, bits: tuple[int, int], per_row: bool
) -> Tensor:
    """Products of batches, cut at run time.

    Shapes: a (B, M, K), b (B, K, N); grids (B,) each. Returns: (B, M, N) float32.
    """
    a, b = a.contiguous(), b.contiguous()
    (batch, m, k), n = a.shape, b.shape[-1]
    out = torch.empty(batch, m, n, dtype=torch.float32, device=a.device)
    kept = [part.contiguous().float() for part in (*a_grid, *b_grid)]
    grids = [
        Grid(_numbers(kept[2 * i]), _numbers(kept[2 * i + 1]), bits[i], 0, 0) for i in range(2)
    ]
    product = Product(
        batch, m, n, k, Matrices(_numbers(a), m * k, k, 1), Matrices(_numbers(b), k * n, 1, n),
        *grids, int(per_row), out.data_ptr(), 0, _form(),
    )  # fmt: skip
    found = _library()
    with _on(a):
        bytes_ = found.bc_cuda_product_scratch_bytes(ctypes.byref(product))
        scratch = _scratch(bytes_, a)
        _check(found.bc_cuda_multiply(ctypes.byref(product), _at(scratch), _stream(a)), "matmul")
    return out


class _Parameters(tuple[Tensor | None, ...]):
    """Of a layer, kept alive for the length of a call."""


def _parameters(
    w_grid: Grids, bias: Tensor | None, x_grid: Grids, stretch: Tensor | None, shift: Tensor | None
) -> _Parameters:
    parts = (*w_grid, *x_grid, stretch, shift, bias)
    return _Parameters(None if p is None else p.detach().float().contiguous() for p in parts)


def _layer(conv: Conv2d, weight: Tensor, numbers: _Parameters, bits: tuple[int, int]) -> Layer:
    record = Layer(conv, bits[0], bits[1], _bytes(weight), *(_numbers(part) for part in numbers))
    record.kept = numbers
    return record


def _numbers(tensor: Tensor | None) -> Numbers:
    return Numbers(None, 0, 0) if tensor is None else Numbers(tensor.data_ptr(), 0, tensor.numel())


def _bytes(tensor: Tensor) -> Numbers:
    return Numbers(tensor.data_ptr(), 2, tensor.numel())


_ready: MutableMapping[Tensor, tuple[tuple[object, ...], Tensor]] = WeakTensorKeyDictionary()
"""Weights in the order of the kernels, by the stored weight; made anew where it was changed."""


def _made_ready(layer: Layer, weight: Tensor) -> Tensor:
    conv = layer.conv
    sizes = conv.filters, conv.channels, conv.kernel_h, conv.kernel_w, conv.groups
    key = weight._version, weight.data_ptr(), layer.x_bits, layer.w_bits, sizes
    known = _ready.get(weight)
    if known is not None and known[0] == key:
        return known[1]
    found = _library()
    memory = _scratch(found.bc_cuda_ready_bytes(ctypes.byref(layer)), weight)
    _check(
        found.bc_cuda_make_ready(ctypes.byref(layer), _at(memory), _stream(weight)), "the weight"
    )
    _ready[weight] = key, memory
    return memory


def _run(
    layer: Layer, weight: Tensor, x: Tensor, size: tuple[int, int, int], out: Tensor,
    orders: tuple[int, int],
) -> None:  # fmt: skip
    run = Run(
        *size, _numbers(x), orders[0], None, 0, None, 0, out.data_ptr(), 0, orders[1], _form()
    )
    found = _library()
    with _on(x):
        ready = _made_ready(layer, weight)
        scratch = _scratch(found.bc_cuda_scratch_bytes(ctypes.byref(layer), ctypes.byref(run)), x)
        status = found.bc_cuda_layer_run(
            ctypes.byref(layer), _at(ready), ctypes.byref(run), _at(scratch), _stream(x)
        )
    _check(status, "a packed layer")


FORMS = {"auto": 0, "direct": 1, "dots": 2, "tensor": 3}
"""bc_cuda_form by the words of BITCOMPRESS_CUDA_FORM; all give the same bits."""


def _form() -> int:
    wish = os.environ.get("BITCOMPRESS_CUDA_FORM", "auto")
    if wish not in FORMS:
        raise UsageError(f"BITCOMPRESS_CUDA_FORM is {wish!r}; one of {', '.join(FORMS)}")
    return FORMS[wish]


def _library() -> ctypes.CDLL:
    found = library()
    assert found is not None, "takes() was not asked"
    return found


def _scratch(bytes_: int, like: Tensor) -> Tensor:
    if bytes_ < 0:
        raise ShapeError("the CUDA kernels do not take these sizes: a sum could leave int32")
    return torch.empty(max(bytes_, 1), dtype=torch.uint8, device=like.device)


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _on(x: Tensor) -> torch.cuda.device:
    return torch.cuda.device(x.device if x.is_cuda else -1)


def _stream(x: Tensor) -> ctypes.c_void_p:
    """The stream of torch, so that kernels wait for what made x; memory is freed in its order."""
    return ctypes.c_void_p(torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0)


STATUSES = {
    1: "an argument is impossible", 2: "sizes do not fit each other", 5: "a sum could leave int32",
    7: "CUDA refused the launch: is the library built for this device?", 8: "a sum of nothing",
}  # fmt: skip


def _check(status: int, what: str) -> None:
    if status != 0:
        raise UsageError(f"{what}: {STATUSES.get(status, f'status {status}')}")
