"""Sign has two values and the published surrogate derivatives."""

from __future__ import annotations

import math

import pytest
import torch

from bitcompress.errors import UsageError
from bitcompress.quant.sign import SURROGATES, Sign, binarise, derivative, ede, sign, signs_at

POINTS = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
SECH2 = [1 - math.tanh(v) ** 2 for v in POINTS.tolist()]


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("ste", [0, 0, 1, 1, 1, 0, 0]), ("approx", [0, 0, 1, 2, 1, 0, 0]), ("tanh", SECH2),
        ("ede", [0.5 * 3 * (1 - math.tanh(0.5 * v) ** 2) for v in POINTS.tolist()]),
    ],
)  # fmt: skip
def test_derivatives_are_those_of_the_papers(kind: str, wanted: list[float]) -> None:
    k, tau = (3.0, 0.5) if kind == "ede" else (1.0, 1.0)
    assert torch.allclose(
        derivative(kind, POINTS, k, tau), torch.tensor(wanted, dtype=torch.float32), atol=1e-6
    )


def test_sign_has_two_values() -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, math.inf, -math.inf, math.nan])
    assert sign(x).tolist() == [1, 1, 1, -1, 1, -1, -1]


@pytest.mark.parametrize("kind", SURROGATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_is_the_comparison_of_raw_numbers(kind: str, dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, 5).to(dtype)
    shift = torch.randn(1, 4, 1)
    x[0, 0, 0] = float("nan")
    y = binarise(x, shift, kind, gain=torch.full((1, 4, 1), 4.0))
    for n in range(3):
        for c in range(4):
            for i in range(5):
                wanted = 1.0 if float(x[n, c, i]) >= float(-shift[0, c, 0] / 4) else -1.0
                assert float(y[n, c, i]) == wanted
    assert y.dtype == dtype


@pytest.mark.parametrize("kind", SURROGATES)
@pytest.mark.parametrize("gain", [None, 2.0])
def test_gradients_are_the_surrogate_by_the_chain_rule(kind: str, gain: float | None) -> None:
    x = torch.randn(5, 3, 4, requires_grad=True)
    shift = torch.randn(1, 3, 1, requires_grad=True)
    g = torch.randn(5, 3, 4)
    many = None if gain is None else torch.full((1, 3, 1), gain)
    (binarise(x, shift, kind, gain=many) * g).sum().backward()
    v = (x * (gain or 1.0) + shift).detach()
    slope = derivative(kind, v)
    assert x.grad is not None and shift.grad is not None
    assert torch.allclose(x.grad, g * slope * (gain or 1.0))
    assert torch.allclose(shift.grad, (g * slope).sum((0, 2), keepdim=True), atol=1e-5)


def test_the_slope_of_tanh_learns() -> None:
    layer, x = Sign("tanh"), torch.randn(50)
    layer(x).sum().backward()
    assert layer.beta is not None and layer.beta.grad is not None
    wanted = (x * (1 - torch.tanh(x) ** 2)).sum()
    assert torch.allclose(layer.beta.grad, wanted, atol=1e-5)


def test_ede_sharpens_over_the_training() -> None:
    k, tau = ede(0.0)
    assert (k, tau) == (pytest.approx(1000.0), pytest.approx(1e-3))
    assert ede(1.0) == (1.0, pytest.approx(10.0))
    layer = Sign("ede")
    layer.progress(1.0)
    assert (layer.k, layer.tau) == ede(1.0)


def test_no_other_surrogates() -> None:
    with pytest.raises(UsageError, match="surrogate is one of"):
        Sign("step")
    with pytest.raises(UsageError, match="surrogate is one of"):
        binarise(POINTS, kind="step")


def test_signs_come_in_the_type_asked_for() -> None:
    assert signs_at(POINTS, 0.5, torch.bfloat16).tolist() == [-1, -1, -1, -1, 1, 1, 1]
