"""Rows to columns in the native kernel: the same numbers, wherever they lie."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitcompress import native as native_module

native = native_module.kernels()
pytestmark = pytest.mark.skipif(native is None, reason="no native kernels")
quick = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(
    count=st.integers(0, 3), rows=st.integers(0, 300), columns=st.integers(0, 70),
    gaps=st.tuples(*[st.integers(0, 5)] * 4), swap=st.booleans(), threads=st.sampled_from([1, 3]),
)  # fmt: skip
def test_rows_become_columns_and_nothing_else_is_written(
    level: str, count: int, rows: int, columns: int, gaps: tuple[int, ...], swap: bool, threads: int
) -> None:
    assert native is not None
    if swap:
        rows, columns = columns, rows
    x = torch.randn(count, rows + gaps[0], columns + gaps[1])[:, :rows, :columns]
    whole = torch.full((count, columns + gaps[2], rows + gaps[3]), -7.0)
    wanted = whole.clone()
    wanted[:, :columns, :rows] = x.mT
    native.turn(x, whole[:, :columns, :rows], threads)
    assert torch.equal(whole, wanted)


def test_a_picture_on_threads() -> None:
    assert native is not None
    x = torch.randn(2, 60, 129 * 130)
    for threads in (1, 4):
        out = torch.empty(2, 129 * 130, 60)
        native.turn(x, out, threads)
        assert torch.equal(out, x.mT)


def test_bits_of_no_number_stay() -> None:
    assert native is not None
    x = torch.randint(-(2**31), 2**31 - 1, (1, 33, 17), dtype=torch.int32)
    out = torch.empty(1, 17, 33)
    native.turn(x.view(torch.float32), out, 1)
    assert torch.equal(out.view(torch.int32), x.mT)


def test_refusals() -> None:
    assert native is not None
    x = torch.zeros(2, 3, 4)
    for call in (
        lambda: native.turn(x, torch.zeros(2, 3, 4)),
        lambda: native.turn(x.mT, torch.zeros(2, 3, 4)),
        lambda: native.turn(x[0], x[0]),
        lambda: native.turn(x[:, :1].expand(2, 3, 4), torch.zeros(2, 4, 3)),
        lambda: native.turn(x, torch.zeros(2, 4, 3), 0),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(TypeError):
        native.turn(x.double(), torch.zeros(2, 4, 3))
