"""Types of the compiled twins of the operators; csrc/include/bitcompress/bits.h says the rest.

Arrays are contiguous CPU tensors of torch or arrays of NumPy of exactly the element type named;
outputs belong to the caller. A wrong element type raises TypeError, a wrong shape or value
ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

# Anything that speaks DLPack or the buffer protocol.
_Array: TypeAlias = Any
_Pair: TypeAlias = tuple[int, int]
_Grid: TypeAlias = tuple[_Array, _Array, _Array]  # scale, offset, top: f32[1] or f32[channels]

class Layer:
    def __init__(
        self,
        w: _Array,
        cut_scale: _Array,
        cut_offset: _Array,
        bits: int,
        x_scale: _Array,
        x_offset: _Array,
        w_bits: int,
        w_scale: _Array,
        w_offset: _Array,
        bias: _Array | None,
        stride: _Pair = (1, 1),
        padding: _Pair = (0, 0),
        dilation: _Pair = (1, 1),
        groups: int = 1,
    ) -> None: ...
    @property
    def isa(self) -> str: ...
    def linear(self, x: _Array, out: _Array, threads: int = 1) -> None: ...
    def conv2d(
        self, x: _Array, x_first: bool, out: _Array, out_first: bool, threads: int = 1
    ) -> None: ...
    def run(
        self,
        x: _Array,
        out: _Array | None,
        head: Chain | None = None,
        tail: Chain | None = None,
        grid: _Grid | None = None,
        x_first: bool = False,
        out_first: bool = False,
        shuffle: int = 1,
        threads: int = 1,
    ) -> None: ...

class Chain:
    def __init__(
        self, steps: Sequence[tuple[int, float, _Array | None, _Array | None, _Array | None, int]]
    ) -> None: ...
    def __len__(self) -> int: ...

class LayerRun:
    def __init__(
        self,
        layer: Layer,
        x: _Array,
        out: _Array | None,
        head: Chain | None = None,
        tail: Chain | None = None,
        grid: _Grid | None = None,
        x_first: bool = False,
        out_first: bool = False,
        shuffle: int = 1,
    ) -> None: ...
    def __call__(self, threads: int = 1) -> None: ...

class Rows:
    def __init__(
        self, chain: Chain, x: _Array, out: _Array | None, grid: _Grid | None = None
    ) -> None: ...
    def __call__(self, threads: int = 1) -> None: ...

class Attention:
    def __init__(
        self,
        depth: int,
        values: int,
        places: list[tuple[_Array, _Array]],
        grids: list[tuple[_Array, _Array]],
        bits: list[int],
        factor: float,
        terms: list[tuple[_Array, _Array, _Array | None, bool]],
        out_grid: tuple[_Array, _Array, int] | None,
        per_row: bool,
    ) -> None: ...
    def run(self, q: _Array, k: _Array, v: _Array, out: _Array, threads: int = 1) -> None: ...

def isa() -> str: ...
def isa_levels() -> list[str]: ...
def set_isa(name: str) -> None: ...
def packed_bytes(n: int, bits: int) -> int: ...
def pack(codes: _Array, bits: int, out: _Array, threads: int = 1) -> None: ...
def unpack(packed: _Array, bits: int, n: int, out: _Array, threads: int = 1) -> None: ...
def encode(
    x: _Array, scale: _Array, offset: _Array, bits: int, out: _Array, threads: int = 1
) -> None: ...
def fake_quantize(
    x: _Array, scale: _Array, offset: _Array, bits: int, out: _Array, threads: int = 1
) -> None: ...
def fake_quantize_backward(
    x: _Array,
    grad: _Array,
    lo: _Array,
    hi: _Array,
    bits: int,
    grad_x: _Array,
    grad_lo: _Array,
    grad_hi: _Array,
    threads: int = 1,
) -> None: ...
def learn_cut(x: _Array, theta: _Array, out: _Array, threads: int) -> None: ...
def learn_cut_back(
    x: _Array,
    grad: _Array,
    tables: _Array,
    window: bool,
    out: _Array,
    sums: _Array,
    threads: int,
) -> None: ...
def learn_moments(p: _Array, sums: _Array, threads: int) -> None: ...
def learn_tail(
    p: _Array, tables: _Array, beside: _Array | None, behind: bool, out: _Array, threads: int
) -> None: ...
def learn_tail_back(
    p: _Array,
    tables: _Array,
    beside: _Array | None,
    grad: _Array,
    to_v: _Array | None,
    to_p: _Array | None,
    sums: _Array,
    threads: int,
) -> None: ...
def learn_norm_back(to_v: _Array, p: _Array, tables: _Array, out: _Array, threads: int) -> None: ...
def histogram(x: _Array, lo: _Array, hi: _Array, counts: _Array, threads: int = 1) -> None: ...
def minmax(x: _Array, lo: _Array, hi: _Array, threads: int = 1) -> None: ...
def gemm_codes(a: _Array, b: _Array, out: _Array, threads: int = 1) -> None: ...
def conv2d_codes(
    x: _Array,
    w: _Array,
    out: _Array,
    stride: _Pair = (1, 1),
    padding: _Pair = (0, 0),
    dilation: _Pair = (1, 1),
    groups: int = 1,
    threads: int = 1,
) -> None: ...
def conv2d_code_sums(
    x: _Array,
    out: _Array,
    kernel: _Pair,
    stride: _Pair = (1, 1),
    padding: _Pair = (0, 0),
    dilation: _Pair = (1, 1),
    groups: int = 1,
    threads: int = 1,
) -> None: ...
def gemm_reals(
    a: _Array,
    b: _Array,
    a_scale: _Array,
    a_offset: _Array,
    b_scale: _Array,
    b_offset: _Array,
    bias: _Array | None,
    out: _Array,
    threads: int = 1,
) -> None: ...
def conv2d_reals(
    x: _Array,
    w: _Array,
    x_scale: _Array,
    x_offset: _Array,
    w_scale: _Array,
    w_offset: _Array,
    bias: _Array | None,
    out: _Array,
    stride: _Pair = (1, 1),
    padding: _Pair = (0, 0),
    dilation: _Pair = (1, 1),
    groups: int = 1,
    threads: int = 1,
) -> None: ...
def conv2d_floats(
    x: _Array,
    w: _Array,
    bias: _Array | None,
    out: _Array,
    stride: _Pair = (1, 1),
    padding: _Pair = (0, 0),
    dilation: _Pair = (1, 1),
    threads: int = 1,
) -> None: ...
def attend(
    q: _Array,
    k: _Array,
    v: _Array,
    grids: list[tuple[_Array, _Array]],
    bits: list[int],
    terms: list[tuple[_Array, bool]],
    out: _Array,
    threads: int = 1,
    per_row: bool = False,
) -> None: ...
def multiply(
    a: _Array,
    b: _Array,
    a_grid: tuple[_Array, _Array],
    b_grid: tuple[_Array, _Array],
    bits: tuple[int, int],
    out: _Array,
    threads: int = 1,
    per_row: bool = False,
) -> None: ...

class Multiply:
    def __init__(
        self,
        a: _Array,
        b: _Array,
        a_grid: tuple[_Array, _Array],
        b_grid: tuple[_Array, _Array],
        bits: tuple[int, int],
        out: _Array,
        per_row: bool = False,
    ) -> None: ...
    def run(self, threads: int = 1) -> None: ...

def exp2(x: _Array, out: _Array) -> None: ...
def layer_norm(
    x: _Array,
    gain: _Array | None,
    shift: _Array | None,
    eps: float,
    out: _Array,
    threads: int = 1,
) -> None: ...
def gelu(x: _Array, tanh_form: bool, out: _Array, threads: int = 1) -> None: ...
def sigmoid(x: _Array, out: _Array, threads: int = 1) -> None: ...
def unit(x: _Array, by_column: bool, least: float, out: _Array, threads: int = 1) -> None: ...
def turn(x: _Array, out: _Array, threads: int = 1) -> None: ...
def softmax_codes(
    x: _Array, scale: float, offset: float, bits: int, out: _Array, threads: int = 1
) -> None: ...
def pixel_sums(
    x: _Array,
    from_: _Array | None,
    sums: _Array | None,
    sizes: _Array | None,
    squares: _Array | None,
    threads: int = 1,
) -> None: ...
def group_scales(
    x: _Array,
    groups: int,
    gain: _Array | None,
    shift: _Array | None,
    eps: float,
    scale: _Array,
    offset: _Array,
    threads: int = 1,
) -> None: ...
def silu(x: _Array, out: _Array, threads: int = 1) -> None: ...
def plane_words(channels: int) -> int: ...
def pack_words(codes: _Array, bits: int, out: _Array, threads: int = 1) -> None: ...
def bit_conv2d(
    x_words: _Array,
    w_words: _Array,
    channels: int,
    out: _Array,
    stride: _Pair = (1, 1),
    padding: _Pair = (0, 0),
    dilation: _Pair = (1, 1),
    groups: int = 1,
    threads: int = 1,
) -> None: ...
def peaks() -> list[tuple[str, str]]: ...
def peak(primitive: str, set: str, rounds: int, buffer: _Array) -> float: ...
def first_change(
    containers: list[dict[Any, Any] | list[Any]], copies: list[tuple[Any, ...]]
) -> int: ...
def first_filled(dicts: list[dict[Any, Any]]) -> int: ...
def first_other(objects: list[Any], name: str, then: list[int]) -> int: ...
