"""How each operator of the table of cases is run: inputs, our way of doing it, the work it is.

An operator that the library lacks stands here with its reason, so that its cases are listed and not
passed over. To add one: a function that gives a `Work`, and its line in OPERATORS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.bench import rivals
from bitcompress.bench.cases import Case
from bitcompress.layers import ConvGeometry, PackedConv2d, PackedLinear, PackedMatmul
from bitcompress.packed import ops
from bitcompress.packed.attention import ProductGrids, Term, attend
from bitcompress.packed.stored import PackedTensor, pack

LOW, HIGH = -2.0, 2.0
"""Inputs are spread so that all codes occur."""


@dataclass(frozen=True)
class Work:
    """One case made ready.

    `make` gives a runner for the instruction set in use; `macs` counts multiply-accumulates,
    `bytes` what goes in and comes out.
    """

    make: Callable[[], Callable[[], Tensor]]
    rivals: rivals.Ways
    macs: int
    bytes: int


Build = Callable[[Case, int], Work]


def _reals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _grid(bits: int) -> tuple[Tensor, Tensor]:
    return torch.tensor([(HIGH - LOW) / ((1 << bits) - 1)]), torch.tensor([LOW])


def _codes(bits: int, *shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1 << bits, shape, generator=random, dtype=torch.uint8)


def _weight(bits: int, *shape: int) -> PackedTensor:
    scale = torch.full((shape[0],), 0.1)
    return PackedTensor(pack(_codes(bits, *shape), bits), shape, bits, scale, -scale)


def _size(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def conv2d(case: Case, threads: int) -> Work:
    """A packed convolution from reals to reals, channels last, borders of true zeros."""
    height, width, channels, filters, kernel, groups = case.sizes
    x = _reals(1, channels, height, width).contiguous(memory_format=torch.channels_last)
    weight = _weight(case.weight_bits, filters, channels // groups, kernel, kernel)
    bias, pad = _reals(filters), kernel // 2
    geometry = ConvGeometry.of((kernel, kernel), (1, 1), (pad, pad), (1, 1), groups)

    def make() -> Callable[[], Tensor]:
        layer = PackedConv2d(weight, bias, *_grid(case.act_bits), case.act_bits, geometry)
        return lambda: layer(x)

    places = height * width * filters
    full = weight.unpack().decode()
    return Work(
        make, rivals.conv2d(x, full, bias, groups, threads),
        places * (channels // groups) * kernel * kernel, _size(x, weight.data) + 4 * places,
    )  # fmt: skip


def conv2d_sums(case: Case, threads: int) -> Work:
    """Exact sums of products of codes: what is left of a convolution without its reading."""
    height, width, channels, filters, kernel, groups = case.sizes
    kernels, pad = _native(), kernel // 2
    x = _codes(case.act_bits, 1, height, width, channels)
    w = _codes(case.weight_bits, filters, kernel, kernel, channels // groups, seed=1)
    out = torch.empty(1, height, width, filters, dtype=torch.int32)

    def run() -> Tensor:
        kernels.conv2d_codes(x, w, out, (1, 1), (pad, pad), (1, 1), groups, threads)
        return out

    reals = x.permute(0, 3, 1, 2).float()
    others = rivals.conv2d(reals, w.permute(0, 3, 1, 2).float(), _reals(filters), groups, threads)
    macs = out.numel() * (channels // groups) * kernel * kernel
    return Work(lambda: run, others, macs, _size(x, w, out))


def linear(case: Case, threads: int) -> Work:
    """A packed linear from reals to reals."""
    rows, length, features = case.sizes
    x, bias = _reals(rows, length), _reals(features)
    weight = _weight(case.weight_bits, features, length)

    def make() -> Callable[[], Tensor]:
        layer = PackedLinear(weight, bias, *_grid(case.act_bits), case.act_bits)
        return lambda: layer(x)

    others = rivals.linear(x, weight.unpack().decode(), bias, threads)
    bytes_ = _size(x, weight.data) + 4 * rows * features
    return Work(make, others, rows * length * features, bytes_)


def linear_sums(case: Case, threads: int) -> Work:
    """Exact sums of products of codes."""
    rows, length, features = case.sizes
    kernels = _native()
    x = _codes(case.act_bits, 1, rows, length)
    w = _codes(case.weight_bits, 1, features, length, seed=1)
    out = torch.empty(1, rows, features, dtype=torch.int32)

    def run() -> Tensor:
        kernels.gemm_codes(x, w, out, threads)
        return out

    others = rivals.linear(x[0].float(), w[0].float(), _reals(features), threads)
    return Work(lambda: run, others, rows * length * features, _size(x, w, out))


def product(case: Case, threads: int) -> Work:
    """A product of two activations, both cut at run time."""
    batch, m, k, n = case.sizes
    a, b = _reals(batch, m, k), _reals(batch, k, n, seed=1)
    bits = (case.act_bits, case.act_bits)
    grid = tuple(part.view(1, 1, 1) for part in _grid(case.act_bits))

    def make() -> Callable[[], Tensor]:
        layer = PackedMatmul((grid[0], grid[1]), (grid[0], grid[1]), bits, (False, False))
        return lambda: layer(a, b)

    return Work(
        make, rivals.product(a, b, threads), batch * m * n * k, _size(a, b) + 4 * batch * m * n
    )


def attention(case: Case, threads: int) -> Work:
    """softmax(q k + bias) v in one pass, both products on codes."""
    batch, tokens, depth = case.sizes
    q, k = _reals(batch, tokens, depth), _reals(batch, depth, tokens)
    v = _reals(batch, tokens, depth)
    bias = _reals(tokens, tokens, seed=1)
    scale, offset = (part.view(1, 1, 1) for part in _grid(case.act_bits))
    bits = (case.act_bits, case.act_bits)
    weights = torch.full((1, 1, 1), 1 / ((1 << case.act_bits) - 1)), torch.zeros(1, 1, 1)
    qk = ProductGrids((scale, offset), (scale, offset), bits)
    av = ProductGrids(weights, (scale, offset), bits, per_row=True)
    terms = [Term(bias, False, (batch, tokens, tokens))]
    return Work(
        lambda: lambda: attend(q, k, v, terms, qk, av), rivals.attention(q, k, v, bias, threads),
        2 * batch * tokens * tokens * depth, _size(q, k, v, bias) + _size(v),
    )  # fmt: skip


def encode(case: Case, threads: int) -> Work:
    """Reals cut into codes: no products, memory alone."""
    x, bits = _reals(*case.sizes), case.act_bits
    scale, offset = _grid(bits)
    others = rivals.cut(x, float(scale), float(offset), (1 << bits) - 1, threads)
    return Work(lambda: lambda: ops.encode(x, scale, offset, bits), others, 0, _size(x) + x.numel())


def _native() -> Any:
    kernels = native.kernels()
    assert kernels is not None  # bench kernels asks before it begins
    return kernels


OPERATORS: dict[str, Build | str] = {
    "conv2d": conv2d,
    "conv2d_sums": conv2d_sums,
    "conv2d_codes": "no convolution stays on codes yet: a packed layer takes and gives reals",
    "conv2d_prelu": "PReLU after a packed convolution is a step of its own yet",
    "conv2d_residual": "adding the input to a packed convolution is a step of its own yet",
    "conv2d_shuffle": "pixel shuffle after a packed convolution is a step of its own yet",
    "linear": linear,
    "linear_sums": linear_sums,
    "linear_codes": "no linear stays on codes yet: a packed layer takes and gives reals",
    "qk": product,
    "av": product,
    "attention": attention,
    "window_attention": "cutting into windows, shift and mask are steps around `attention` yet",
    "encode": encode,
    "layernorm_codes": "LayerNorm and the cut are two steps yet",
    "gelu_codes": "GELU and the cut are two steps yet",
    "softmax_codes": "softmax and cut are one step inside `attention` only",
}
"""How an operator is run, or why it cannot be."""
