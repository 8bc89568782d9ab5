"""How each operator of the table of cases is run: inputs, our way of doing it, the work it is.

An operator that the library lacks stands here with its reason, so that its cases are listed and not
passed over. To add one: a function that gives a `Work`, and its line in OPERATORS.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bitcompress.bench import fused, inputs, rivals, windows
from bitcompress.bench.cases import Case
from bitcompress.layers import ConvGeometry, PackedConv2d, PackedLinear, PackedMatmul
from bitcompress.packed import ops
from bitcompress.packed.attention import ProductGrids, Term, attend


def conv2d(case: Case, threads: int) -> inputs.Work:
    """A packed convolution from reals to reals, channels last, borders of true zeros."""
    height, width, channels, filters, kernel, groups = case.sizes
    x = inputs.reals(1, channels, height, width).contiguous(memory_format=torch.channels_last)
    weight = inputs.weight(case.weight_bits, filters, channels // groups, kernel, kernel)
    bias, pad = inputs.reals(filters), kernel // 2
    geometry = ConvGeometry.of((kernel, kernel), (1, 1), (pad, pad), (1, 1), groups)

    def make() -> Callable[[], Tensor]:
        layer = PackedConv2d(weight, bias, *inputs.grid(case.act_bits), case.act_bits, geometry)
        return lambda: layer(x)

    places = height * width * filters
    full = weight.unpack().decode()
    return inputs.Work(
        make, rivals.conv2d(x, full, bias, groups, threads),
        places * (channels // groups) * kernel * kernel, inputs.size(x, weight.data) + 4 * places,
    )  # fmt: skip


def conv2d_sums(case: Case, threads: int) -> inputs.Work:
    """Exact sums of products of codes: what is left of a convolution without its reading."""
    height, width, channels, filters, kernel, groups = case.sizes
    kernels, pad = inputs.kernels(), kernel // 2
    x = inputs.codes(case.act_bits, 1, height, width, channels)
    w = inputs.codes(case.weight_bits, filters, kernel, kernel, channels // groups, seed=1)
    out = torch.empty(1, height, width, filters, dtype=torch.int32)

    def run() -> Tensor:
        kernels.conv2d_codes(x, w, out, (1, 1), (pad, pad), (1, 1), groups, threads)
        return out

    reals = x.permute(0, 3, 1, 2).float()
    others = rivals.conv2d(
        reals, w.permute(0, 3, 1, 2).float(), inputs.reals(filters), groups, threads
    )
    macs = out.numel() * (channels // groups) * kernel * kernel
    return inputs.Work(lambda: run, others, macs, inputs.size(x, w, out))


def linear(case: Case, threads: int) -> inputs.Work:
    """A packed linear from reals to reals."""
    rows, length, features = case.sizes
    x, bias = inputs.reals(rows, length), inputs.reals(features)
    weight = inputs.weight(case.weight_bits, features, length)

    def make() -> Callable[[], Tensor]:
        layer = PackedLinear(weight, bias, *inputs.grid(case.act_bits), case.act_bits)
        return lambda: layer(x)

    others = rivals.linear(x, weight.unpack().decode(), bias, threads)
    bytes_ = inputs.size(x, weight.data) + 4 * rows * features
    return inputs.Work(make, others, rows * length * features, bytes_)


def linear_sums(case: Case, threads: int) -> inputs.Work:
    """Exact sums of products of codes."""
    rows, length, features = case.sizes
    kernels = inputs.kernels()
    x = inputs.codes(case.act_bits, 1, rows, length)
    w = inputs.codes(case.weight_bits, 1, features, length, seed=1)
    out = torch.empty(1, rows, features, dtype=torch.int32)

    def run() -> Tensor:
        kernels.gemm_codes(x, w, out, threads)
        return out

    others = rivals.linear(x[0].float(), w[0].float(), inputs.reals(features), threads)
    return inputs.Work(lambda: run, others, rows * length * features, inputs.size(x, w, out))


def product(case: Case, threads: int) -> inputs.Work:
    """A product of two activations, both cut at run time."""
    batch, m, k, n = case.sizes
    a, b = inputs.reals(batch, m, k), inputs.reals(batch, k, n, seed=1)
    bits = (case.act_bits, case.act_bits)
    grid = tuple(part.view(1, 1, 1) for part in inputs.grid(case.act_bits))

    def make() -> Callable[[], Tensor]:
        layer = PackedMatmul((grid[0], grid[1]), (grid[0], grid[1]), bits, (False, False))
        return lambda: layer(a, b)

    return inputs.Work(
        make,
        rivals.product(a, b, threads),
        batch * m * n * k,
        inputs.size(a, b) + 4 * batch * m * n,
    )


def attention(case: Case, threads: int) -> inputs.Work:
    """softmax(q k + bias) v in one pass, both products on codes."""
    batch, tokens, depth = case.sizes
    q, k = inputs.reals(batch, tokens, depth), inputs.reals(batch, depth, tokens)
    v = inputs.reals(batch, tokens, depth)
    bias = inputs.reals(tokens, tokens, seed=1)
    scale, offset = (part.view(1, 1, 1) for part in inputs.grid(case.act_bits))
    bits = (case.act_bits, case.act_bits)
    weights = torch.full((1, 1, 1), 1 / ((1 << case.act_bits) - 1)), torch.zeros(1, 1, 1)
    qk = ProductGrids((scale, offset), (scale, offset), bits)
    av = ProductGrids(weights, (scale, offset), bits, per_row=True)
    terms = [Term(bias, False, (batch, tokens, tokens))]
    return inputs.Work(
        lambda: lambda: attend(q, k, v, terms, qk, av), rivals.attention(q, k, v, bias, threads),
        2 * batch * tokens * tokens * depth, inputs.size(q, k, v, bias) + inputs.size(v),
    )  # fmt: skip


def encode(case: Case, threads: int) -> inputs.Work:
    """Reals cut into codes: no products, memory alone."""
    x, bits = inputs.reals(*case.sizes), case.act_bits
    scale, offset = inputs.grid(bits)
    others = rivals.cut(x, float(scale), float(offset), (1 << bits) - 1, threads)
    return inputs.Work(
        lambda: lambda: ops.encode(x, scale, offset, bits), others, 0, inputs.size(x) + x.numel()
    )


OPERATORS: dict[str, inputs.Build | str] = {
    "conv2d": conv2d,
    "conv2d_sums": conv2d_sums,
    "conv2d_codes": fused.conv2d_codes,
    "conv2d_prelu": fused.conv2d_prelu,
    "conv2d_residual": fused.conv2d_residual,
    "conv2d_shuffle": fused.conv2d_shuffle,
    "linear": linear,
    "linear_sums": linear_sums,
    "linear_codes": fused.linear_codes,
    "qk": product,
    "av": product,
    "attention": attention,
    "window_attention": windows.window_attention,
    "window_attention_codes": windows.window_attention_codes,
    "encode": encode,
    "layernorm_codes": fused.layernorm_codes,
    "gelu_codes": fused.gelu_codes,
    "softmax_codes": fused.softmax_codes,
}
"""How an operator is run, or why it cannot be."""
