"""Softmax and cut in one pass give the codes of softmax, then cut."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitcompress import native as native_module
from bitcompress.packed.ops import encode
from bitcompress.packed.softmax import softmax
from bitcompress.packed.softmax_codes import softmax_codes

native = native_module.kernels()
pytestmark = pytest.mark.skipif(native is None, reason="no native kernels")
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(
    rows=st.integers(1, 70),
    n=st.integers(1, 300),
    bits=st.integers(1, 8),
    sharpness=st.sampled_from([0.0, 1.0, 30.0]),
    poison=st.sampled_from([None, math.nan, math.inf, -math.inf]),
    threads=st.sampled_from([1, 3]),
)
def test_it_is_softmax_then_cut(
    level: str, rows: int, n: int, bits: int, sharpness: float, poison: float | None, threads: int
) -> None:
    torch.manual_seed(rows * n)
    x = torch.randn(rows, n) * sharpness
    if poison is not None:
        x[rows // 2, n // 2] = poison
    scale, offset = torch.tensor([0.7 / ((1 << bits) - 1)]), torch.tensor([0.01])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = softmax_codes(x.view(1, rows, n), scale, offset, bits)[0]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, encode(softmax(x), scale, offset, bits))


def test_refusals() -> None:
    assert native is not None
    x, out = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.uint8)
    for call in (
        lambda: native.softmax_codes(x, 0.1, 0.0, 9, out),
        lambda: native.softmax_codes(x, 0.1, 0.0, 2, out, 0),
        lambda: native.softmax_codes(x, 0.1, 0.0, 2, out[:1]),
        lambda: native.softmax_codes(x[:, :0].clone(), 0.1, 0.0, 2, out[:, :0].clone()),
    ):
        with pytest.raises(ValueError):
            call()
