"""Numbers divided by their length along an axis: near torch, the same bits in the native kernel."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitcompress import native as native_module
from bitcompress.packed.unit import define_unit, unit

native = native_module.kernels()
needs_native = pytest.mark.skipif(native is None, reason="no native kernels")
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x,
    "heads of tokens": lambda x: x.permute(0, 2, 3, 1),
    "part of a linear": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]].permute(0, 2, 3, 1),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every second": lambda x: x[..., ::2],
    "expanded": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "turned": lambda x: x.transpose(0, 3),
}


def same_bits(a: Tensor, b: Tensor) -> bool:
    bits = [torch.where(t.isnan(), 0, t.contiguous().view(torch.int32)) for t in (a, b)]
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(*bits)


@needs_native
@quick
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 6), st.integers(1, 40)),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dim=st.integers(-4, 3),
    kind=st.sampled_from(["plain", "zeros", "tiny", "huge", "nan", "inf"]),
    threads=st.sampled_from([1, 3]),
)
def test_the_kernel_gives_the_same_bits(
    level: str, sizes: tuple[int, ...], layout: str, dim: int, kind: str, threads: int
) -> None:
    torch.manual_seed(sum(sizes))
    x = torch.randn(sizes) * {"zeros": 0.0, "tiny": 1e-30, "huge": 1e25}.get(kind, 1.0)
    if kind in ("nan", "inf"):
        x.view(-1)[x.numel() // 2] = math.nan if kind == "nan" else math.inf
    x = LAYOUTS[layout](x)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = unit(x, dim, 1e-12)
    finally:
        torch.set_num_threads(before)
    assert same_bits(got, define_unit(x, dim, 1e-12))
    assert got.shape == x.shape


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_it_is_what_torch_means_and_lies_as_torch_lays_it(layout: str, dim: int) -> None:
    torch.manual_seed(0)
    x = LAYOUTS[layout](torch.randn(2, 37, 4, 30))
    got, wanted = unit(x, dim, 1e-12), F.normalize(x.double(), dim=dim)
    assert float((got.double() - wanted).abs().max()) < 3e-7
    assert got.stride() == F.normalize(x, dim=dim).stride()


def test_what_is_shorter_than_the_least_is_divided_by_that() -> None:
    x = torch.tensor([[3e-3, 4e-3], [0.0, 0.0]])
    assert torch.allclose(unit(x, 1, 0.5), x / 0.5, rtol=1e-6, atol=0)


@needs_native
def test_a_long_column_on_threads() -> None:
    x = torch.randn(2, 5000, 60)
    assert native is not None
    wanted = define_unit(x, 1, 1e-12)
    for threads in (1, 4):
        out = torch.empty_like(x)
        native.unit(x, True, 1e-12, out, threads)
        assert same_bits(out, wanted)


@needs_native
def test_refusals() -> None:
    assert native is not None
    x = torch.zeros(2, 3, 4)
    for call in (
        lambda: native.unit(x, True, 1e-12, torch.zeros(2, 4, 3)),
        lambda: native.unit(x.mT, True, 1e-12, torch.zeros(2, 4, 3)),
        lambda: native.unit(x[0], True, 1e-12, x[0]),
        lambda: native.unit(x, True, 1e-12, x[:1].expand(2, 3, 4).clone(), 0),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(TypeError):
        native.unit(x.double(), True, 1e-12, x)
