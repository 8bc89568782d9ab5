"""The packed operators of the domain `bitcompress`: linear, conv2d, matmul.

Each takes real activations and weights in their stored form, cuts the activations into codes,
multiplies integers exactly, and gives real numbers back. To capture and export they are one opaque
node each. What they mean is packed/definition.py; native kernels replace its integer sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.errors import ShapeError
from bitcompress.packed import cuda, definition
from bitcompress.packed.rows import Rows, centred, rows_of
from bitcompress.packed.stored import unpack
from bitcompress.quant.spec import codes_of, in_groups


def encode(x: Tensor, scale: Tensor, offset: Tensor, bits: int) -> Tensor:
    """The codes of x; scale and offset broadcast against it.

    Returns: like x, uint8. A NaN becomes code 0; a scale of 0 is a step, x >= offset.
    """
    kernels = native.kernels()
    if kernels is not None and native.takes(x):
        view = _grouping(x, scale)
        if view is not None and scale.numel() == offset.numel():
            flat = x.contiguous()
            out = torch.empty(x.shape, dtype=torch.uint8)
            kernels.encode(
                flat.view(view), scale.reshape(-1).contiguous(), offset.reshape(-1).contiguous(),
                bits, out.view(view), native.threads(),
            )  # fmt: skip
            return out
    return codes_of(x, scale, offset, (1 << bits) - 1).to(torch.uint8).contiguous()


def _grouping(x: Tensor, scale: Tensor) -> tuple[int, int, int] | None:
    """x read as (outer, groups, inner) where scale varies along one axis only; else None."""
    if scale.numel() == 1:
        return 1, 1, x.numel()
    sizes = [1] * (x.dim() - scale.dim()) + list(scale.shape)
    axes = [d for d, size in enumerate(sizes) if size > 1]
    if len(axes) != 1 or sizes[axes[0]] != x.shape[axes[0]]:
        return None
    return in_groups(x.shape, axes[0])


def channel_grid(
    scale: Tensor, offset: Tensor, stretch: Tensor | None, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The grid by which real inputs are cut into codes, one a channel where stretch is given.

    Shapes: scale, offset (1,); stretch, shift (C,). Returns: scale and offset, () or (C,).
    """
    if stretch is None:
        return scale.reshape(()), offset.reshape(())
    low = stretch * offset if shift is None else stretch * offset + shift
    return stretch * scale, low


LONGEST_NATIVE = 33025
"""The longest sum that the native kernels take: of 8-bit codes it just fits into int32."""


def _kernels_for(a: Tensor, b: Tensor, bits: tuple[int, int], length: int) -> ModuleType | None:
    """The native kernels, where they take such codes: some, on the CPU, with sums in int32."""
    if a.device.type != "cpu" or a.numel() == 0 or b.numel() == 0:
        return None
    fits = definition.accumulator(*bits, length) == torch.int32 and length <= LONGEST_NATIVE
    return native.kernels() if fits else None


def product_reals(
    a: Tensor, b: Tensor, bits: tuple[int, int], a_grid: tuple[Tensor, Tensor],
    b_grid: tuple[Tensor, Tensor], bias: Tensor | None,
) -> Tensor:  # fmt: skip
    """Real products of two batches of codes: the definition, or the native kernel.

    Shapes: a (B, M, K), b (B, N, K) uint8; a_grid (B,) each; b_grid (B, N) or (B, 1) each;
            bias (N,).
    Returns: (B, M, N) float32.
    """
    kernels = _kernels_for(a, b, bits, int(a.shape[-1]))
    if kernels is None:
        real = definition.affine(
            definition.code_products(a, b, *bits),
            a.sum(2, keepdim=True, dtype=torch.int32),
            b.sum(2, dtype=torch.int32)[:, None],
            int(a.shape[-1]),
            (a_grid[0].view(-1, 1, 1), a_grid[1].view(-1, 1, 1)),
            (b_grid[0][:, None], b_grid[1][:, None]),
        )
        return (real if bias is None else real + bias).float()
    out = torch.empty(a.shape[0], a.shape[1], b.shape[1])
    kernels.gemm_reals(
        a, b, *(part.contiguous() for part in (*a_grid, *b_grid)), bias, out, native.threads()
    )
    return out


def conv2d_reals(
    x: Tensor, w: Tensor, bits: tuple[int, int], x_grid: tuple[Tensor, Tensor],
    w_grid: tuple[Tensor, Tensor], bias: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """The real convolution of codes: the definition, or the native kernel.

    Shapes: x (N, H, W, C), w (O, C/groups, KH, KW) uint8; x_grid (1,) each; w_grid (1,) or (O,).
    Returns: (N, O, OH, OW) float32.
    """
    kernels = _kernels_for(x, w, bits, int(w[0].numel()))
    if kernels is None:
        planes, view = x.permute(0, 3, 1, 2), (1, -1, 1, 1)
        x_sums, w_sums, count = definition.conv2d_tap_sums(
            planes, w, list(stride), list(padding), list(dilation), groups
        )
        real = definition.affine(
            definition.code_conv2d(
                planes, w, *bits, list(stride), list(padding), list(dilation), groups
            ),
            x_sums.repeat_interleave(w.shape[0] // groups, 1),
            w_sums,
            count,
            x_grid,
            (w_grid[0].view(view), w_grid[1].view(view)),
        )
        return (real if bias is None else real + bias.view(view)).float()
    height, width = conv2d_size((0, 0, *x.shape[1:3]), w.shape, stride, padding, dilation)
    out = torch.empty(x.shape[0], height, width, w.shape[0])
    kernels.conv2d_reals(
        x, w.permute(0, 2, 3, 1).contiguous(), *(part.contiguous() for part in x_grid),
        *(part.reshape(1, -1).contiguous() for part in w_grid), bias, out,
        tuple(stride), tuple(padding), tuple(dilation), groups, native.threads(),
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def memory_format_like(x: Tensor) -> torch.memory_format:
    """Channels last where the strides of x run that way, as torch's own convolution decides.

    A slice of channels counts too; what follows a convolution may round by the order in memory.
    """
    n, c, h, w = x.stride()
    last = c < w <= h <= n and x.shape[1] > 1
    return torch.channels_last if last else torch.contiguous_format


def conv2d_size(
    x: Sequence[int], w: Sequence[int],
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
) -> tuple[int, int]:  # fmt: skip
    """Height and width of a convolution's output.

    Raises: ShapeError if the kernel does not fit into the padded picture.
    """
    sizes = []
    for i in range(2):
        span = dilation[i] * (w[2 + i] - 1) + 1
        size = (x[2 + i] + 2 * padding[i] - span) // stride[i] + 1
        if size < 1:
            raise ShapeError(f"a kernel of {w[2]}x{w[3]} does not fit into {x[2]}x{x[3]} pixels")
        sizes.append(int(size))
    return sizes[0], sizes[1]


@torch.library.custom_op("bitcompress::linear", mutates_args=())
def linear(
    x: Tensor, weight: Tensor, weight_shape: Sequence[int], weight_scale: Tensor,
    weight_offset: Tensor, bias: Tensor | None, input_scale: Tensor, input_offset: Tensor,
    stretch: Tensor | None, shift: Tensor | None, weight_bits: int, input_bits: int,
) -> Tensor:  # fmt: skip
    """x W^T + b with x and W as codes.

    Shapes: x (..., K) real; weight (bytes,) uint8 in stored form of weight_shape (N, K);
            weight_scale, weight_offset (1,) or (N,); input_scale, input_offset (1,); bias (N,);
            stretch, shift (K,): code k stands for input_offset + input_scale * code of the
            normalised (x_k - shift_k) / stretch_k, what the weight is a weight of.
    Returns: (..., N) like x.
    Raises: ShapeError if K differs.
    """
    if x.shape[-1] != weight_shape[1]:
        raise ShapeError(f"input has {x.shape[-1]} features, the weight takes {weight_shape[1]}")
    if cuda.takes(x):
        return cuda.linear(
            x, weight, weight_shape, (weight_scale, weight_offset), bias,
            (input_scale, input_offset), stretch, shift, (input_bits, weight_bits),
        )  # fmt: skip
    w = unpack(weight, weight_bits, list(weight_shape))
    grid = channel_grid(input_scale, input_offset, stretch, shift)
    codes = encode(x, *grid, input_bits).view(1, -1, x.shape[-1])
    real = product_reals(
        codes, w[None], (input_bits, weight_bits), (input_scale, input_offset),
        (weight_scale[None], weight_offset[None]), bias,
    )  # fmt: skip
    return real.to(x.dtype).view(*x.shape[:-1], weight_shape[0])


@linear.register_fake
def _linear_shape(x: Tensor, weight: Tensor, weight_shape: Sequence[int], *_: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight_shape[0]))


@torch.library.custom_op("bitcompress::conv2d", mutates_args=())
def conv2d(
    x: Tensor, weight: Tensor, weight_shape: Sequence[int], weight_scale: Tensor,
    weight_offset: Tensor, bias: Tensor | None, input_scale: Tensor, input_offset: Tensor,
    stretch: Tensor | None, shift: Tensor | None, weight_bits: int, input_bits: int,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """The convolution of x with packed weights; taps outside the picture are true zeros.

    Shapes: x (N, C, H, W) real; weight (bytes,) uint8 in stored form of weight_shape
            (O, C/groups, KH, KW); scales and offsets as in `linear`; bias (O,).
    Returns: (N, O, OH, OW) like x.
    Raises: ShapeError if C differs or the kernel does not fit.
    """
    if x.dim() != 4 or x.shape[1] != weight_shape[1] * groups:
        raise ShapeError(
            f"input is {tuple(x.shape)}, the convolution takes "
            f"(N, {weight_shape[1] * groups}, H, W)"
        )
    size = conv2d_size(x.shape, weight_shape, stride, padding, dilation)
    if cuda.takes(x):
        return cuda.conv2d(
            x, weight, weight_shape, (weight_scale, weight_offset), bias,
            (input_scale, input_offset), stretch, shift, (input_bits, weight_bits),
            stride, padding, dilation, groups, size, memory_format_like(x),
        )  # fmt: skip
    w = unpack(weight, weight_bits, list(weight_shape))
    grid = channel_grid(input_scale, input_offset, stretch, shift)
    codes = encode(x.permute(0, 2, 3, 1), *grid, input_bits)
    real = conv2d_reals(
        codes, w, (input_bits, weight_bits), (input_scale, input_offset),
        (weight_scale, weight_offset), bias, stride, padding, dilation, groups,
    )  # fmt: skip
    return real.to(x.dtype, memory_format=memory_format_like(x))


@conv2d.register_fake
def _conv2d_shape(
    x: Tensor, weight: Tensor, weight_shape: Sequence[int], weight_scale: Tensor,
    weight_offset: Tensor, bias: Tensor | None, input_scale: Tensor, input_offset: Tensor,
    stretch: Tensor | None, shift: Tensor | None, weight_bits: int, input_bits: int,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    size = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight_shape[2 + i] - 1) - 1) // stride[i]
        + 1
        for i in range(2)
    ]
    out = x.new_empty((x.shape[0], weight_shape[0], *size))
    return out.contiguous(memory_format=memory_format_like(x))


@torch.library.custom_op("bitcompress::matmul", mutates_args=())
def matmul(
    a: Tensor, b: Tensor, a_scale: Tensor, a_offset: Tensor, b_scale: Tensor, b_offset: Tensor,
    a_bits: int, b_bits: int, per_row: bool = False,
) -> Tensor:  # fmt: skip
    """a b with both operands cut into codes at run time.

    Shapes: a (..., M, K), b (..., K, N) real, leading sizes equal; grids broadcast against
            (..., 1, 1), so that they leave the sum over K. per_row: a holds attention weights, cut
            relative to the largest of their row (packed/rows.py).
    Returns: (..., M, N) like a.
    Raises: ShapeError if the operands do not fit each other.
    """
    if a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"cannot multiply {tuple(a.shape)} by {tuple(b.shape)}")
    lead, (m, k), n = a.shape[:-2], a.shape[-2:], b.shape[-1]
    if cuda.takes(a) and cuda.takes(b):
        spread = [
            part.expand(*lead, 1, 1).reshape(-1) for part in (a_scale, a_offset, b_scale, b_offset)
        ]
        flat = a.reshape(-1, m, k), b.reshape(-1, k, n)
        return cuda.matmul(
            *flat, (spread[0], spread[1]), (spread[2], spread[3]), (a_bits, b_bits), per_row
        ).view(*lead, m, n)
    if per_row:
        grids = (a_scale, a_offset), (b_scale, b_offset)
        return row_reals(rows_of(a.float()), b, *grids, (a_bits, b_bits)).to(a.dtype)
    left = encode(a, a_scale, a_offset, a_bits).reshape(-1, m, k).contiguous()
    right = encode(b, b_scale, b_offset, b_bits).transpose(-2, -1).reshape(-1, n, k).contiguous()

    def each(part: Tensor) -> Tensor:
        return part.expand(*lead, 1, 1).reshape(-1)

    real = product_reals(
        left, right, (a_bits, b_bits), (each(a_scale), each(a_offset)),
        (each(b_scale)[:, None], each(b_offset)[:, None]), None,
    )  # fmt: skip
    return real.to(a.dtype).view(*lead, m, n)


def row_reals(
    rows: Rows, b: Tensor, a_grid: tuple[Tensor, Tensor], b_grid: tuple[Tensor, Tensor],
    bits: tuple[int, int],
) -> Tensor:  # fmt: skip
    """Attention weights, given as rows, times values; both cut into codes.

    Shapes: rows of (..., M, K), b (..., K, N) real, or uint8 where it is codes already, leading
            sizes equal; grids as in `matmul`.
    Returns: (..., M, N) float32.
    """
    left = encode(rows.relative, *a_grid, bits[0])
    right = b if b.dtype == torch.uint8 else encode(b, *b_grid, bits[1])
    return centred(
        definition.code_products(left, right.transpose(-2, -1), *bits),
        left.sum(-1, keepdim=True, dtype=torch.int64),
        right.sum(-2, keepdim=True, dtype=torch.int64),
        int(b.shape[-2]), rows, a_grid[0], b_grid,
    ).float()  # fmt: skip


@matmul.register_fake
def _matmul_shape(a: Tensor, b: Tensor, *_: object) -> Tensor:
    return a.new_empty((*a.shape[:-1], b.shape[-1]))
