"""Means over pixels and group norm: near float64, and the same bits natively in every layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitcompress import native as native_module
from bitcompress.packed.group_norm import define_group_scales, group_norm, group_scales
from bitcompress.packed.pixels import (
    define_pixel_deviation,
    define_pixel_mean,
    pixel_deviation,
    pixel_mean,
    tile_sum,
)

native = native_module.kernels()
needs_native = pytest.mark.skipif(native is None, reason="no native kernels")
quick = settings(
    max_examples=40, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "slice of channels": lambda x: torch.cat([x, x], 1).contiguous(
        memory_format=torch.channels_last
    )[:, : x.shape[1]],
    "tokens": lambda x: x.flatten(2).transpose(1, 2).contiguous().transpose(1, 2),
    "every second": lambda x: torch.cat([x, x], 3)[..., ::2],
    "one expanded": lambda x: x[:, :, :1, :1].expand(x.shape),
}
SIZES = st.sampled_from([(1, 1), (1, 15), (4, 4), (15, 17), (16, 16), (7, 40), (33, 31), (3, 1000)])


def same_bits(a: Tensor, b: Tensor) -> bool:
    bits = [torch.where(t.isnan(), 0, t.contiguous().view(torch.int32)) for t in (a, b)]
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(*bits)


@needs_native
@quick
@given(
    size=SIZES, n=st.integers(1, 3), groups=st.integers(1, 5), each=st.integers(1, 18),
    layout=st.sampled_from(sorted(LAYOUTS)), mean=st.sampled_from([0.0, 3.0, -1000.0]),
    nan=st.booleans(), threads=st.sampled_from([1, 3]),
)  # fmt: skip
def test_the_kernels_give_the_same_bits(
    level: str, size: tuple[int, int], n: int, groups: int, each: int, layout: str, mean: float,
    nan: bool, threads: int,
) -> None:  # fmt: skip
    torch.manual_seed(n * 100 + groups * 20 + each)
    c = groups * each
    x = torch.randn(n, c, *size) + mean
    if nan:
        x[0, -1, 0, -1] = float("nan")
    x = LAYOUTS[layout](x)
    centre, gain, shift = torch.randn(n, c), torch.randn(c), torch.randn(c)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert same_bits(pixel_mean(x), define_pixel_mean(x))
        assert same_bits(pixel_deviation(x, centre), define_pixel_deviation(x, centre))
        for affine in ((gain, shift), (None, None)):
            got = group_scales(x, groups, *affine, 1e-5)
            wanted = define_group_scales(x, groups, *affine, 1e-5)
            assert same_bits(got[0], wanted[0]) and same_bits(got[1], wanted[1])
    finally:
        torch.set_num_threads(before)


@quick
@given(size=SIZES, c=st.integers(1, 9), mean=st.sampled_from([0.0, -30.0]))
def test_means_are_near_float64(size: tuple[int, int], c: int, mean: float) -> None:
    x = torch.randn(2, c, *size) + mean
    centre = torch.randn(2, c)
    exact, apart = x.double(), x.double() - centre.double()[..., None, None]
    torch.testing.assert_close(
        pixel_mean(x).double(), exact.mean((2, 3)), rtol=0, atol=3e-7 * (1 + abs(mean))
    )
    torch.testing.assert_close(
        pixel_deviation(x, centre).double(), apart.abs().mean((2, 3)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("mean", [0.0, 5.0, 10000.0])
@pytest.mark.parametrize("groups", [1, 4, 12])
def test_group_norm_is_near_float64(groups: int, mean: float) -> None:
    x, gain, shift = torch.randn(2, 12, 21, 40) + mean, torch.rand(12) + 0.5, torch.randn(12)
    wanted = F.group_norm(x.double(), groups, gain.double(), shift.double(), 1e-5)
    tolerance = 2e-6 * (1 + mean)  # x * scale + offset rounds as far as x reaches
    for memory in (torch.contiguous_format, torch.channels_last):
        got = group_norm(x.contiguous(memory_format=memory), groups, gain, shift, 1e-5)
        assert got.is_contiguous(memory_format=memory)
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=tolerance)


def test_a_constant_picture_has_no_variance() -> None:
    x = torch.full((1, 4, 9, 9), 0.1)
    assert float(group_norm(x, 2, None, None, 1e-5).abs().max()) < 1e-4


def test_sums_of_zeros_are_zero_and_gradients_flow() -> None:
    assert str(tile_sum(torch.full((3,), -0.0)).item()) == "0.0"
    x = torch.randn(2, 3, 20, 30, requires_grad=True)
    pixel_mean(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / 600))
    small = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda t: group_norm(t.float(), 2, None, None, 1e-2).double(),
                             (small,), eps=1e-3, atol=1e-2)  # fmt: skip


@needs_native
def test_what_does_not_fit_is_refused() -> None:
    assert native is not None
    x, out = torch.randn(2, 6, 20), torch.empty(2, 6)
    with pytest.raises(ValueError, match="axes"):
        native.pixel_sums(x[0], None, out, None, None)
    with pytest.raises(ValueError, match="dense"):
        native.pixel_sums(x.transpose(0, 1), None, out, None, None)
    with pytest.raises(ValueError):
        native.group_scales(x, 4, None, None, 1e-5, out, out.clone())
    with pytest.raises(ValueError):
        native.pixel_sums(torch.empty(2, 6, 0), None, out, None, None)
    with pytest.raises(TypeError):
        native.pixel_sums(x.double(), None, out, None, None)
