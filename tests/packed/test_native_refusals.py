"""Wrong arguments of the native module raise, name what is wrong, and never crash."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

import bitcompress

if os.environ.get("BITCOMPRESS_NATIVE", "").lower() == "off":
    pytest.skip("the native module is switched off", allow_module_level=True)
native: ModuleType = pytest.importorskip("bitcompress._native")

f32, u8, i32 = torch.float32, torch.uint8, torch.int32


def zeros(*shape: int, dtype: torch.dtype = u8) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def attention(**changes: object) -> None:
    """attend on one matrix of 4 queries, 5 keys, depth 3 and 2 values, with something changed."""
    grid = zeros(1, dtype=f32), zeros(1, dtype=f32)
    arguments: dict[str, object] = {
        "q": zeros(1, 4, 3, dtype=f32), "k": zeros(1, 5, 3, dtype=f32),
        "v": zeros(1, 5, 2, dtype=f32), "grids": [grid] * 4, "bits": [2] * 4, "terms": [],
        "out": zeros(1, 4, 2, dtype=f32),
    }  # fmt: skip
    native.attend(**(arguments | changes))


def product(**changes: object) -> None:
    """multiply on one matrix of 4 x 3 by 3 x 5, with something changed."""
    grid = zeros(1, dtype=f32), zeros(1, dtype=f32)
    arguments: dict[str, object] = {
        "a": zeros(1, 4, 3, dtype=f32), "b": zeros(1, 5, 3, dtype=f32), "a_grid": grid,
        "b_grid": grid, "bits": (2, 2), "out": zeros(1, 4, 5, dtype=f32),
    }  # fmt: skip
    native.multiply(**(arguments | changes))


BAD_VALUES = {
    "multiply: another depth": lambda: product(b=zeros(1, 5, 4, dtype=f32)),
    "multiply: another batch": lambda: product(b=zeros(2, 5, 3, dtype=f32)),
    "multiply: bits": lambda: product(bits=(0, 2)),
    "multiply: out": lambda: product(out=zeros(1, 5, 4, dtype=f32)),
    "multiply: no terms": lambda: product(a=zeros(1, 4, 0, dtype=f32), b=zeros(1, 5, 0, dtype=f32)),
    "multiply: two axes": lambda: product(a=zeros(4, 3, dtype=f32)),
    "attend: keys of another depth": lambda: attention(k=zeros(1, 5, 4, dtype=f32)),
    "attend: values of other keys": lambda: attention(v=zeros(1, 4, 2, dtype=f32)),
    "attend: two axes": lambda: attention(q=zeros(4, 3, dtype=f32)),
    "attend: three grids": lambda: attention(grids=[(zeros(1, dtype=f32),) * 2] * 3),
    "attend: grids of another batch": lambda: attention(grids=[(zeros(2, dtype=f32),) * 2] * 4),
    "attend: bits": lambda: attention(bits=[2, 2, 9, 2]),
    "attend: a term of other keys": lambda: attention(terms=[(zeros(1, 4, 4, dtype=f32), False)]),
    "attend: terms of another batch": lambda: attention(terms=[(zeros(2, 4, 5, dtype=f32), False)]),
    "attend: out": lambda: attention(out=zeros(1, 4, 3, dtype=f32)),
    "attend: no keys": lambda: attention(k=zeros(1, 0, 3, dtype=f32), v=zeros(1, 0, 2, dtype=f32)),
    "attend: threads": lambda: attention(threads=0),
    "bits 0": lambda: native.pack(zeros(8), 0, zeros(1)),
    "bits 9": lambda: native.packed_bytes(8, 9),
    "negative n": lambda: native.packed_bytes(-1, 2),
    "code too large": lambda: native.pack(zeros(8) + 4, 2, zeros(2)),
    "code too large for words": lambda: native.pack_words(
        zeros(2, 8) + 4, 2, zeros(2, 2, 2, dtype=i32)
    ),
    "packed size": lambda: native.pack(zeros(8), 2, zeros(3)),
    "unpack size": lambda: native.unpack(zeros(3), 2, 8, zeros(8)),
    "threads 0": lambda: native.pack(zeros(8), 2, zeros(2), threads=0),
    "two axes": lambda: native.pack(zeros(2, 4), 2, zeros(2)),
    "not contiguous": lambda: native.pack(zeros(8, 2)[:, 0], 2, zeros(2)),
    "x of two axes": lambda: native.encode(
        zeros(3, 4, dtype=f32), zeros(3, dtype=f32), zeros(3, dtype=f32), 2, zeros(3, 4)
    ),
    "scale of another size": lambda: native.encode(
        zeros(1, 3, 4, dtype=f32), zeros(2, dtype=f32), zeros(3, dtype=f32), 2, zeros(1, 3, 4)
    ),
    "out of another shape": lambda: native.fake_quantize(
        zeros(1, 3, 4, dtype=f32),
        zeros(3, dtype=f32),
        zeros(3, dtype=f32),
        2,
        zeros(1, 4, 3, dtype=f32),
    ),
    "bounds crossed": lambda: native.fake_quantize_backward(
        *(zeros(1, 1, 4, dtype=f32) for _ in "xg"),
        *(zeros(1, dtype=f32) for _ in "lh"),
        2,
        zeros(1, 1, 4, dtype=f32),
        *(zeros(1, dtype=f32) for _ in "lh"),
    ),
    "no bins": lambda: native.histogram(
        zeros(1, 1, 4, dtype=f32),
        *(zeros(1, dtype=f32) for _ in "lh"),
        zeros(1, 0, dtype=torch.int64),
    ),
    "range of nothing": lambda: native.minmax(
        zeros(1, 1, 0, dtype=f32), *(zeros(1, dtype=f32) for _ in "lh")
    ),
    "reductions differ": lambda: native.gemm_codes(
        zeros(1, 2, 3), zeros(1, 2, 4), zeros(1, 2, 2, dtype=i32)
    ),
    "batches differ": lambda: native.gemm_codes(
        zeros(2, 2, 3), zeros(1, 2, 3), zeros(2, 2, 2, dtype=i32)
    ),
    "groups do not divide": lambda: native.conv2d_codes(
        zeros(1, 4, 4, 3), zeros(2, 1, 1, 1), zeros(1, 4, 4, 2, dtype=i32), groups=2
    ),
    "groups 0": lambda: native.conv2d_codes(
        zeros(1, 4, 4, 3), zeros(2, 1, 1, 3), zeros(1, 4, 4, 2, dtype=i32), groups=0
    ),
    "filters not divided": lambda: native.conv2d_codes(
        zeros(1, 4, 4, 4), zeros(3, 1, 1, 2), zeros(1, 4, 4, 3, dtype=i32), groups=2
    ),
    "stride 0": lambda: native.conv2d_codes(
        zeros(1, 4, 4, 3), zeros(2, 1, 1, 3), zeros(1, 4, 4, 2, dtype=i32), stride=(0, 1)
    ),
    "negative padding": lambda: native.conv2d_codes(
        zeros(1, 4, 4, 3), zeros(2, 1, 1, 3), zeros(1, 2, 4, 2, dtype=i32), padding=(-1, 0)
    ),
    "kernel larger than picture": lambda: native.conv2d_codes(
        zeros(1, 2, 2, 3), zeros(2, 3, 3, 3), zeros(1, 0, 0, 2, dtype=i32)
    ),
    "huge dilation": lambda: native.conv2d_codes(
        zeros(1, 2, 2, 3), zeros(2, 3, 3, 3), zeros(1, 1, 1, 2, dtype=i32), dilation=(2**62, 1)
    ),
    "output of another size": lambda: native.conv2d_codes(
        zeros(1, 4, 4, 3), zeros(2, 3, 3, 3), zeros(1, 4, 4, 2, dtype=i32)
    ),
    "kernel 0": lambda: native.conv2d_code_sums(
        zeros(1, 4, 4, 3), zeros(1, 4, 4, 1, dtype=i32), (0, 1)
    ),
    "words of other channels": lambda: native.bit_conv2d(
        zeros(1, 1, 2, 2, 2, dtype=i32),
        zeros(1, 3, 1, 1, 2, dtype=i32),
        65,
        zeros(1, 2, 2, 3, dtype=i32),
    ),
    "nine planes": lambda: native.bit_conv2d(
        zeros(9, 1, 2, 2, 2, dtype=i32),
        zeros(1, 3, 1, 1, 2, dtype=i32),
        3,
        zeros(1, 2, 2, 3, dtype=i32),
    ),
}

BAD_TYPES = {
    "float codes": lambda: native.pack(zeros(8, dtype=f32), 2, zeros(2)),
    "double reals": lambda: native.minmax(
        zeros(1, 1, 4, dtype=torch.float64), *(zeros(1, dtype=f32) for _ in "lh")
    ),
    "byte sums": lambda: native.gemm_codes(zeros(1, 2, 3), zeros(1, 2, 3), zeros(1, 2, 2)),
    "a list": lambda: native.pack([0] * 8, 2, zeros(2)),
    "nothing": lambda: native.pack(None, 2, zeros(2)),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_wrong_values_and_shapes_raise(name: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        BAD_VALUES[name]()


@pytest.mark.parametrize("name", BAD_TYPES)
def test_wrong_types_raise(name: str) -> None:
    with pytest.raises(TypeError):
        BAD_TYPES[name]()


def test_a_read_only_output_is_refused() -> None:
    out = np.zeros(2, np.uint8)
    out.flags.writeable = False
    with pytest.raises((TypeError, ValueError, BufferError)):
        native.pack(np.zeros(8, np.uint8), 2, out)


def test_messages_name_the_argument_and_the_shape() -> None:
    with pytest.raises(ValueError, match=r"out must have shape \(2\), not \(3\)"):
        native.pack(zeros(8), 2, zeros(3))


def test_stub_lists_what_the_module_has() -> None:
    stub = Path(bitcompress.__file__).with_name("_native.pyi").read_text()
    functions = {
        node.name: [argument.arg for argument in node.args.args]
        for node in ast.parse(stub).body
        if isinstance(node, ast.FunctionDef)
    }
    functions |= {"Layer": ["w", "bits"], "LayerRun": ["layer"], "Chain": ["steps"], "Rows": ["x"]}
    functions |= {"Attention": ["places", "terms"], "Multiply": ["a", "b", "out"]}
    assert set(functions) == {name for name in dir(native) if not name.startswith("_")}
    for name, arguments in functions.items():
        made = getattr(native, name)
        described = made.__init__.__doc__ if isinstance(made, type) else made.__doc__
        signature = described.split("\n")[0]
        for argument in arguments:
            assert f"{argument}:" in signature, (name, argument)
