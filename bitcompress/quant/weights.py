"""How a latent weight becomes signs and a scale for each filter, and how gradients come back.

A rule gives Sign and scale apart, so that a layer can sum signs exactly and scale afterwards; its
gradient is the published one of the binary weight scale * sign. Filters are rows: a latent weight
is looked at as (filters, n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitcompress.quant.sign import derivative, sign

TINY = 1e-30


@dataclass(frozen=True)
class Surroundings:
    """What a gradient may look at beside the weight: inputs a filter, and EDE's k and tau."""

    inputs: int = 1
    k: float = 1.0
    tau: float = 1.0


@dataclass(frozen=True)
class WeightRule:
    """A weight binariser.

    centred  the latent weight whose sign is taken. Shapes: w (F, n). Returns: (F, n)
    scale    a number for each filter, from w and the centred weight. Returns: (F,)
    gradient of the latent weight from that of the binary weight. Shapes: grad, w (F, n)
    before   what is done to the latent weight in place before each training step, or None
    """

    name: str
    centred: Callable[[Tensor, Surroundings], Tensor]
    scale: Callable[[Tensor, Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor, Surroundings], Tensor]
    before: Callable[[Tensor, Surroundings], Tensor] | None = None

    def binary(
        self, w: Tensor, around: Surroundings, *, rough: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Signs and scale of a latent weight, no gradient.

        Sums run in float64 and are rounded once, so that no order of adding shows in the scale;
        rough: in float32, for training. Shapes: w (F, n). Returns: (F, n) of +1 and -1; (F,).
        """
        exact = w.detach() if rough else w.detach().double()
        centred = self.centred(exact, around)
        return sign(centred).to(w.dtype), self.scale(exact, centred).to(w.dtype)


def _itself(w: Tensor, around: Surroundings) -> Tensor:
    return w


def _less_mean(w: Tensor, around: Surroundings) -> Tensor:
    return w - w.mean(1, keepdim=True)


def _less_mean_of_inputs(w: Tensor, around: Surroundings) -> Tensor:
    """Centred over the input channels of each tap, and clamped."""
    taps = w.reshape(len(w), around.inputs, -1) if around.inputs else w[:, None]
    return (taps - taps.mean(1, keepdim=True)).clamp(-1, 1).reshape(w.shape)


def _standard(w: Tensor, around: Surroundings) -> Tensor:
    return _less_mean(w, around) / _deviation(w)


def _deviation(w: Tensor) -> Tensor:
    if w.shape[1] < 2:
        return torch.ones_like(w[:, :1])
    return w.std(1, keepdim=True).clamp(min=TINY)


def _ones(w: Tensor, centred: Tensor) -> Tensor:
    return torch.ones_like(w[:, 0])


def _magnitude(w: Tensor, centred: Tensor) -> Tensor:
    return w.abs().mean(1)


def _centred_magnitude(w: Tensor, centred: Tensor) -> Tensor:
    return centred.abs().mean(1)


def _layer_magnitude(w: Tensor, centred: Tensor) -> Tensor:
    return w.abs().mean().expand(len(w))


def _power_of_two(w: Tensor, centred: Tensor) -> Tensor:
    return torch.exp2(centred.abs().mean(1).clamp(min=2.0**-64).log2().round())


def _clipped(grad: Tensor, w: Tensor, around: Surroundings) -> Tensor:
    return grad * (w.abs() <= 1)


def _straight(grad: Tensor, w: Tensor, around: Surroundings) -> Tensor:
    return grad


def _clipped_centred(grad: Tensor, w: Tensor, around: Surroundings) -> Tensor:
    inside = grad * (_less_mean(w, around).abs() <= 1)
    return inside - inside.mean(1, keepdim=True)


def _xnor(grad: Tensor, w: Tensor, around: Surroundings) -> Tensor:
    scale = w.abs().mean(1, keepdim=True)
    share = 1.0 - 1.0 / around.inputs if around.inputs > 1 else 1.0
    return grad * ((w.abs() < 1) * scale + 1.0 / w.shape[1]) * share


def _libra(grad: Tensor, w: Tensor, around: Surroundings) -> Tensor:
    """Through scale (a constant), EDE, and the standardisation with the unbiased deviation."""
    standard, n = _standard(w, around), w.shape[1]
    inner = grad * _power_of_two(w, standard)[:, None]
    inner = inner * derivative("ede", standard, around.k, around.tau)
    along = (inner * standard).sum(1, keepdim=True) / max(n - 1, 1)
    return (inner - inner.mean(1, keepdim=True) - standard * along) / _deviation(w)


def _clamp(w: Tensor, around: Surroundings) -> Tensor:
    return w.clamp(-1, 1)


WEIGHTS: dict[str, WeightRule] = {
    rule.name: rule
    for rule in (
        WeightRule("bnn", _itself, _ones, _clipped, before=_clamp),
        WeightRule("dorefa", _itself, _layer_magnitude, _straight),
        WeightRule(
            "xnor", _less_mean_of_inputs, _centred_magnitude, _xnor, before=_less_mean_of_inputs
        ),
        WeightRule("magnitude", _itself, _magnitude, _clipped),
        WeightRule("centred", _less_mean, _magnitude, _clipped_centred),
        WeightRule("libra", _standard, _power_of_two, _libra),
    )
}
"""Every weight binariser, by name.

bnn        Sign(w); latent weights are clipped to [-1, 1]
dorefa     E|w| of the layer times Sign(w), gradient straight through
xnor       XNOR-Net: mean|w| Sign(w) of the weight centred over its inputs and clamped; gradient
           dL/dw = dL/dwb (mean|w| [|w| < 1] + 1/n) (1 - 1/I). Differs: without the factor n, a
           learning rate of SGD that Adam does not see and that would drown clipped gradients
magnitude  Bi-Real, ReActNet, BBCU, BI-DiffSR, BiDense: mean|w| Sign(w), dL/dw = dL/dwb [|w| <= 1]
centred    BiDense's linear: mean|w| Sign(w - mean w), clipped by the centred weight
libra      IR-Net: 2^round(log2 mean|w'|) Sign(w') of the standardised weight, EDE
"""
