"""Signs in one pass: the same bits as the comparison, gradients by the plain formula."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bitcompress import native
from bitcompress.quant.passes import WINDOWS, cut, cut_backward
from bitcompress.quant.sign import derivative, signs_at

LAST = torch.channels_last
KERNELS = native.kernels()
pytestmark = pytest.mark.skipif(KERNELS is None, reason="no native kernels")
Given = tuple[Tensor, Tensor]


@pytest.fixture(params=["pictures", "samples", "tokens"])
def given(request: pytest.FixtureRequest) -> Given:
    """x and a table: one row for all samples, one for each, or of tokens."""
    if request.param == "tokens":
        return torch.randn(3, 7, 5), torch.randn(5)
    x = torch.randn(3, 5, 6, 7).contiguous(memory_format=LAST)
    return x, torch.randn(3 if request.param == "samples" else 1, 5, 1, 1)


@pytest.fixture(params=KERNELS.isa_levels() if KERNELS is not None else [])
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set of this CPU."""
    assert KERNELS is not None
    before = KERNELS.isa()
    KERNELS.set_isa(request.param)
    yield str(request.param)
    KERNELS.set_isa(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_signs_are_those_of_the_comparison(given: Given, dtype: torch.dtype, level: str) -> None:
    x, theta = given
    x[0, 0, 0], x[0, 1, 0], x[1, 0, 0] = float("nan"), 0.0, -0.0
    theta[0] = 0.0
    got = cut(x, theta, dtype)
    assert got is not None and got.dtype == dtype and got.stride() == x.stride()
    assert torch.equal(got, signs_at(x, theta, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", WINDOWS)
def test_gradients_are_the_formula(given: Given, kind: str, dtype: torch.dtype, level: str) -> None:
    x, shift = given
    grad, gain = torch.randn_like(x).to(dtype), torch.full_like(shift[:1], 2.0)
    gain = gain if x.dim() == 4 else torch.full_like(shift, 2.0)
    got = cut_backward(x, grad, gain, shift, kind)
    assert got is not None
    v = (gain * x + shift).double()
    wanted = grad.double() * derivative(kind, v)
    assert torch.allclose(got[0].double(), wanted * gain, atol=1e-6)
    assert torch.allclose(
        got[1].double().reshape(shift.shape), wanted.sum_to_size(shift.shape), atol=1e-5
    )


def test_all_else_is_left_to_torch() -> None:
    x, theta = torch.randn(2, 5, 4, 4), torch.zeros(1, 5, 1, 1)
    last = x.contiguous(memory_format=LAST)
    assert cut(x, theta, torch.float32) is None
    assert cut(last.double(), theta, torch.float32) is None
    assert cut(last, theta, torch.float16) is None
    assert cut(last, torch.zeros(1, 5, 4, 1), torch.float32) is None
    assert cut_backward(last, last, None, theta, "tanh") is None


def test_arrays_that_do_not_fit_are_refused() -> None:
    assert KERNELS is not None
    x, table = torch.zeros(1, 3, 5), torch.zeros(1, 4, 5)
    with pytest.raises(ValueError, match="tables must have shape"):
        KERNELS.learn_cut(x, table, x, 1)
    with pytest.raises(TypeError, match="of the type of the others"):
        KERNELS.learn_norm_back(x, x, table[:, :3].contiguous(), x.to(torch.int16), 1)
    with pytest.raises(ValueError, match="learn_tail_back"):
        KERNELS.learn_tail_back(x, table, None, x, None, None, table, 1)
