"""Operators that are one native pass: a packed layer with what stands around it, rows and a cut.

The others do the same work with the operators they have. Their int8 column is the convolution from
codes to codes alone where they lack what follows it, which is less work than ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.bench import inputs, rivals
from bitcompress.bench.cases import Case
from bitcompress.layers import ConvGeometry, PackedConv2d, PackedLinear
from bitcompress.packed.layer import native_layer
from bitcompress.packed.softmax_codes import softmax_codes as softmax_codes_of
from bitcompress.packed.steps import Step, bind

SLOPE = 0.2


def _output_grid(bits: int, channels: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """One grid a channel over -spread .. spread."""
    top = float((1 << bits) - 1)
    return (
        torch.full((channels,), 2 * spread / top), torch.full((channels,), -spread),
        torch.full((channels,), top),
    )  # fmt: skip


def _run(
    module: nn.Module, x: Tensor, out: Tensor, grid: Any, tail: list[Step], shuffle: int,
    threads: int,
) -> Callable[[], Tensor]:  # fmt: skip
    """One run of a packed layer, ready for the instruction set in use."""
    kernels = inputs.kernels()
    layer = native_layer(module, torch.empty(1), module._weights)  # type: ignore[arg-type]
    filters = module.weight_shape[0]  # type: ignore[index]
    shape = (*x.shape[:-1], filters)
    chain = bind(kernels, tail, shape) if tail else None
    run = kernels.LayerRun(layer, x, out, None, chain, grid, shuffle=shuffle)

    def go() -> Tensor:
        run(threads)
        return out

    return go


def _conv2d(
    case: Case, threads: int, tail: Callable[[Tensor], list[Step]], ways: rivals.After | None,
    codes: bool = False, shuffle: int = 1,
) -> inputs.Work:  # fmt: skip
    height, width, channels, filters, kernel, groups = case.sizes
    bits, pad = case.act_bits, kernel // 2
    reals = inputs.reals(1, channels, height, width).contiguous(memory_format=torch.channels_last)
    pixels = reals.permute(0, 2, 3, 1)
    x = inputs.codes(bits, 1, height, width, channels) if codes else pixels
    weight = inputs.weight(case.weight_bits, filters, channels // groups, kernel, kernel)
    bias = inputs.reals(filters)
    geometry = ConvGeometry.of((kernel, kernel), (1, 1), (pad, pad), (1, 1), groups)
    length = channels // groups * kernel * kernel
    grid = _output_grid(bits, filters, 2 * length**0.5 * 0.1) if codes else None
    size = (1, height * shuffle, width * shuffle, filters // (shuffle * shuffle))

    def make() -> Callable[[], Tensor]:
        layer = PackedConv2d(weight, bias, *inputs.grid(bits), bits, geometry)
        out = torch.empty(size, dtype=torch.uint8 if codes else torch.float32)
        return _run(layer, x, out, grid, tail(pixels), shuffle, threads)

    places = height * width * filters
    others = rivals.conv2d(reals, weight.unpack().decode(), bias, groups, threads, ways)
    bytes_ = inputs.size(x, weight.data) + places * (1 if codes else 4)
    return inputs.Work(make, others, places * length, bytes_)


def conv2d_codes(case: Case, threads: int) -> inputs.Work:
    """A convolution that takes codes and gives codes by the grids of whoever reads it."""
    return _conv2d(case, threads, lambda _: [], None, codes=True)


def conv2d_prelu(case: Case, threads: int) -> inputs.Work:
    """A convolution and PReLU, reals in and out."""
    slopes = torch.full((case.sizes[3],), SLOPE)
    return _conv2d(case, threads, lambda _: [Step("leaky", slopes)], rivals.prelu(slopes))


def conv2d_residual(case: Case, threads: int) -> inputs.Work:
    """A convolution and its input added, reals in and out."""
    return _conv2d(case, threads, lambda x: [Step("add", x)], rivals.residual())


def conv2d_shuffle(case: Case, threads: int) -> inputs.Work:
    """A convolution whose store is a pixel shuffle of 2, reals in and out."""
    return _conv2d(case, threads, lambda _: [], rivals.pixel_shuffle(2), shuffle=2)


def linear_codes(case: Case, threads: int) -> inputs.Work:
    """A linear that takes codes and gives codes by the grids of whoever reads it."""
    rows, length, features = case.sizes
    bits = case.act_bits
    x, bias = inputs.codes(bits, rows, length), inputs.reals(features)
    weight = inputs.weight(case.weight_bits, features, length)
    grid = _output_grid(bits, features, 2 * length**0.5 * 0.1)

    def make() -> Callable[[], Tensor]:
        layer = PackedLinear(weight, bias, *inputs.grid(bits), bits)
        out = torch.empty(rows, features, dtype=torch.uint8)
        return _run(layer, x, out, grid, [], 1, threads)

    others = rivals.linear(inputs.reals(rows, length), weight.unpack().decode(), bias, threads)
    bytes_ = inputs.size(x, weight.data) + rows * features
    return inputs.Work(make, others, rows * length * features, bytes_)


def _rows_to_codes(case: Case, threads: int, steps: list[Step], others: rivals.Ways) -> inputs.Work:
    x = inputs.reals(*case.sizes)
    grid = _output_grid(case.act_bits, case.sizes[1], inputs.HIGH)

    def make() -> Callable[[], Tensor]:
        kernels, out = inputs.kernels(), torch.empty(x.shape, dtype=torch.uint8)
        run = kernels.Rows(bind(kernels, steps, x.shape), x, out, grid)

        def go() -> Tensor:
            run(threads)
            return out

        return go

    return inputs.Work(make, others, 0, inputs.size(x) + x.numel())


def layernorm_codes(case: Case, threads: int) -> inputs.Work:
    """Layer norm of rows, cut into codes."""
    channels = case.sizes[1]
    gain, shift = torch.ones(channels), torch.zeros(channels)
    others = rivals.norm_codes(inputs.reals(*case.sizes), gain, shift, case.act_bits, threads)
    return _rows_to_codes(case, threads, [Step("norm", gain, shift, eps=1e-5)], others)


def gelu_codes(case: Case, threads: int) -> inputs.Work:
    """GELU of rows, cut into codes."""
    others = rivals.gelu_codes(inputs.reals(*case.sizes), case.act_bits, threads)
    return _rows_to_codes(case, threads, [Step("gelu")], others)


def softmax_codes(case: Case, threads: int) -> inputs.Work:
    """Softmax of rows, cut into codes by one grid from 0 to 1."""
    x, bits = inputs.reals(*case.sizes), case.act_bits
    scale = 1 / ((1 << bits) - 1)
    grid = torch.tensor([scale]), torch.zeros(1)
    return inputs.Work(
        lambda: lambda: softmax_codes_of(x, *grid, bits),
        rivals.softmax_codes(x, scale, bits, threads), 0, inputs.size(x) + x.numel(),
    )  # fmt: skip
