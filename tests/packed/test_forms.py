"""Products of codes of every width are exact, whatever form their left codes take.

A layer whose grids are the whole numbers gives the integers themselves; they are compared with
torch in double precision and with a plain loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d

from bitcompress import native

pytestmark = pytest.mark.skipif(native.kernels() is None, reason="no native kernels")
narrow = st.tuples(st.integers(1, 3), st.integers(1, 3))
widths = st.one_of(narrow, st.tuples(st.integers(1, 8), st.integers(1, 8)))


def quick(examples: int) -> settings:
    return settings(deadline=None, max_examples=examples, derandomize=True)


def sums(w: Tensor, x: Tensor, bits: tuple[int, int], **geometry: Any) -> np.ndarray:
    """What the native layer gives for codes w (O, C/groups, KH, KW) and x (N, C, H, W)."""
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    layer = native.kernels().Layer(
        w.permute(0, 2, 3, 1).contiguous().numpy(), one, zero, bits[1], one, zero, bits[0], one,
        zero, None, **geometry,
    )  # fmt: skip
    size = conv2d(x.float(), w.float(), **geometry).shape
    out = np.empty((size[0], size[2], size[3], size[1]), np.float32)
    layer.conv2d(x.permute(0, 2, 3, 1).float().contiguous().numpy(), False, out, False)
    return out.transpose(0, 3, 1, 2)


def codes(shape: tuple[int, ...], bits: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1 << bits, shape, generator=random, dtype=torch.uint8)


@quick(120)
@given(
    bits=widths, groups=st.sampled_from([1, 1, 2, 3]), each=st.integers(1, 70),
    filters=st.integers(1, 50), kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 2), dilation=st.integers(1, 2), pad=st.integers(0, 2),
    size=st.tuples(st.integers(5, 9), st.integers(5, 30)), seed=st.integers(0, 9999),
)  # fmt: skip
def test_a_convolution_of_codes_is_that_of_torch(
    level: str, bits: tuple[int, int], groups: int, each: int, filters: int,
    kernel: tuple[int, int], stride: int, dilation: int, pad: int, size: tuple[int, int], seed: int,
) -> None:  # fmt: skip
    w = codes((filters * groups, each, *kernel), bits[0], seed)
    x = codes((1, each * groups, *size), bits[1], seed + 1)
    geometry = {"stride": (stride,) * 2, "padding": (pad,) * 2, "dilation": (dilation,) * 2}
    want = conv2d(x.double(), w.double(), groups=groups, **geometry)
    got = sums(w, x, bits, groups=groups, **geometry)
    assert np.array_equal(got, want.float().numpy())


@quick(40)
@given(
    bits=narrow, channels=st.integers(1, 40), filters=st.integers(1, 140),
    seed=st.integers(0, 9999),
)  # fmt: skip
def test_a_convolution_of_codes_is_a_plain_loop(
    level: str, bits: tuple[int, int], channels: int, filters: int, seed: int
) -> None:
    w = codes((filters, channels, 3, 2), bits[0], seed).numpy().astype(np.int64)
    x = codes((1, channels, 4, 5), bits[1], seed + 1).numpy().astype(np.int64)
    want = np.zeros((1, filters, 2, 4), np.int64)
    for y in range(2):
        for at in range(4):
            for ty in range(3):
                for tx in range(2):
                    want[0, :, y, at] += w[:, :, ty, tx] @ x[0, :, y + ty, at + tx]
    got = sums(torch.from_numpy(w.astype(np.uint8)), torch.from_numpy(x.astype(np.uint8)), bits)
    assert np.array_equal(got, want)


@pytest.mark.parametrize("bits", [(1, 1), (2, 2), (1, 2), (3, 3), (4, 4), (6, 6)])
@pytest.mark.parametrize(("channels", "kernel"), [(7281, 1), (7300, 1), (2500, 3), (4000, 2)])
def test_sums_longer_than_their_first_accumulators_hold(
    level: str, bits: tuple[int, int], channels: int, kernel: int
) -> None:
    """All codes are the largest, so that bytes and words are as full as they get."""
    w = torch.full((66, channels, kernel, kernel), (1 << bits[0]) - 1, dtype=torch.uint8)
    x = torch.full((1, channels, kernel, kernel + 2), (1 << bits[1]) - 1, dtype=torch.uint8)
    most = channels * kernel * kernel * ((1 << bits[0]) - 1) * ((1 << bits[1]) - 1)
    assert np.all(sums(w, x, bits) == np.float32(most))
