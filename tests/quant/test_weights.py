"""Weight binarisers give the binary weights and the gradients of their papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bitcompress.quant.sign import ede
from bitcompress.quant.weights import WEIGHTS, Surroundings

W = torch.tensor([[0.5, -1.5, 0.25, 0.75], [-0.1, 0.2, -0.3, 0.4]])


def binary(name: str, w: Tensor, inputs: int = 2) -> tuple[Tensor, Tensor]:
    return WEIGHTS[name].binary(w, Surroundings(inputs))


def test_magnitudes_and_signs_by_hand() -> None:
    signs, scale = binary("magnitude", W)
    assert signs.tolist() == [[1, -1, 1, 1], [-1, 1, -1, 1]]
    assert scale.tolist() == [0.75, 0.25]
    assert binary("bnn", W)[1].tolist() == [1, 1]
    assert binary("dorefa", W)[1].tolist() == [0.5, 0.5]


def test_zero_is_positive_and_a_filter_of_zeros_has_no_scale() -> None:
    for name in WEIGHTS:
        signs, scale = binary(name, torch.zeros(2, 4))
        assert (signs == 1).all() and torch.isfinite(scale).all()
    assert binary("magnitude", torch.zeros(2, 4))[1].tolist() == [0, 0]


def test_xnor_centres_each_tap_over_its_inputs() -> None:
    w = torch.tensor([[3.0, -0.5, 0.5, 0.1]])  # two inputs of two taps
    signs, scale = binary("xnor", w)
    # taps: (3, .5) - 1.75 -> (1.25, -1.25) -> clamped (1, -1); (-.5, .1) + .2 -> (-.3, .3)
    assert signs.tolist() == [[1, -1, -1, 1]]
    assert scale.item() == pytest.approx((1 + 1 + 0.3 + 0.3) / 4)


def test_xnor_gradient_by_hand() -> None:
    w = torch.tensor([[0.5, -0.25, 0.75, -2.0]])
    grad = torch.tensor([[1.0, 2.0, -1.0, 4.0]])
    got = WEIGHTS["xnor"].gradient(grad, w, Surroundings(2))
    scale, n, share = 3.5 / 4, 4, 1 - 1 / 2
    inside = [1, 1, 1, 0]
    wanted = [float(g) * (scale * m + 1 / n) * share for g, m in zip(grad[0], inside, strict=True)]
    assert got[0].tolist() == pytest.approx(wanted)


def test_clipped_gradients_stop_outside_one() -> None:
    grad = torch.ones(2, 4)
    assert WEIGHTS["magnitude"].gradient(grad, W, Surroundings()).tolist() == [
        [1, 0, 1, 1], [1, 1, 1, 1],
    ]  # fmt: skip
    assert (WEIGHTS["dorefa"].gradient(grad, W, Surroundings()) == 1).all()


def test_libra_is_centred_with_unit_deviation_and_a_power_of_two() -> None:
    w = torch.randn(5, 27) * torch.tensor([0.01, 0.1, 1, 10, 100])[:, None] + 0.3
    rule = WEIGHTS["libra"]
    standard = rule.centred(w.double(), Surroundings())
    assert float(standard.mean(1).abs().max()) < 1e-6
    assert torch.allclose(standard.std(1), torch.ones(5, dtype=torch.float64), atol=1e-5)
    for scale in rule.binary(w, Surroundings())[1].tolist():
        assert math.frexp(scale)[0] == 0.5


def test_libra_gradient_is_that_of_autograd() -> None:
    k, tau = ede(0.6)
    w = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 12, dtype=torch.float64)
    standard = (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True)
    soft = k * torch.tanh(tau * standard)  # its derivative is EDE
    scale = 2.0 ** torch.round(torch.log2(standard.detach().abs().mean(1, keepdim=True)))
    (soft * scale * grad).sum().backward()
    got = WEIGHTS["libra"].gradient(grad, w.detach(), Surroundings(4, k, tau))
    assert w.grad is not None and torch.allclose(got, w.grad)


def test_centred_gradient_is_that_of_autograd() -> None:
    w = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 12, dtype=torch.float64)
    (torch.nn.functional.hardtanh(w - w.mean(1, keepdim=True)) * grad).sum().backward()
    got = WEIGHTS["centred"].gradient(grad, w.detach(), Surroundings())
    assert w.grad is not None and torch.allclose(got, w.grad)


def test_rough_and_exact_agree_but_for_rounding() -> None:
    w = torch.randn(8, 30)
    for rule in WEIGHTS.values():
        exact, rough = rule.binary(w, Surroundings(3)), rule.binary(w, Surroundings(3), rough=True)
        assert torch.allclose(exact[1], rough[1], rtol=1e-5)
