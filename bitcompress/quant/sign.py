"""Sign with surrogate gradients: what one bit an activation or weight trains through.

Forward is exactly Sign everywhere: +1 where v >= 0 (so +1 at 0 and at -0.0), else -1, NaN included.
Backward is the formula of the surrogate. The framework's own sign() has a third value and is used
nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import UsageError
from bitcompress.quant import passes


def signs(bits: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """+1 where a bit is set, else -1. Returns: like bits, of `dtype`."""
    return bits.to(dtype).mul_(2).sub_(1)


def signs_at(x: Tensor, theta: Tensor | float = 0.0, dtype: torch.dtype | None = None) -> Tensor:
    """+1 where x >= theta, else -1, NaN included; no gradient. Returns: like x, or of `dtype`.

    A comparison that writes reals is one pass; one that writes bools, and where(), are far slower.
    """
    x = x.detach()
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    out = torch.ge(wide, theta, out=torch.empty_like(wide)).mul_(2).sub_(1)
    return out.to(x.dtype if dtype is None else dtype)


def sign(x: Tensor) -> Tensor:
    """Sign with Sign(0) = +1 and NaN -> -1; no gradient. Returns: like x."""
    zeros = torch.zeros(x.shape[-1]) if x.dim() == 2 and x.dtype == torch.float32 else None
    quick = None if zeros is None else passes.cut(x, zeros, x.dtype)
    return signs_at(x) if quick is None else quick


def _ste(v: Tensor, k: float, tau: float) -> Tensor:
    return torch.lt(v.abs_(), 1, out=v)


def _approx(v: Tensor, k: float, tau: float) -> Tensor:
    return v.abs_().mul_(-2).add_(2).clamp_(min=0)


def _tanh(v: Tensor, k: float, tau: float) -> Tensor:
    return v.mul_(tau).tanh_().square_().mul_(-k).add_(k)


def _ede(v: Tensor, k: float, tau: float) -> Tensor:
    return _tanh(v, k * tau, tau)


Derivative = Callable[[Tensor, float, float], Tensor]
SURROGATES: dict[str, Derivative] = {"ste": _ste, "approx": _approx, "tanh": _tanh, "ede": _ede}
"""The derivative that stands for that of Sign at v; it may use v as its memory.

name    derivative                                        source
ste     1 where |v| < 1                                   BNN, XNOR-Net
approx  2 + 2v on [-1, 0), 2 - 2v on [0, 1), else 0       Bi-Real Net, ReActNet, BI-DiffSR, BiDense
tanh    beta (1 - tanh^2(beta v)), beta = k = tau         BiSRNet
ede     k tau (1 - tanh^2(tau v))                         IR-Net
"""


def derivative(kind: str, v: Tensor, k: float = 1.0, tau: float = 1.0) -> Tensor:
    """The surrogate derivative of Sign at v. Returns: like v; v stays."""
    return SURROGATES[kind](v.detach().clone(), k, tau)


class _Binarise(torch.autograd.Function):
    """Sign(gain x + shift); both broadcast against x, gain being powers of two."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor | None, gain: Tensor | None, beta: Tensor | None,
        how: tuple[str, float, float, torch.dtype],
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, shift, gain, beta)
        ctx.how = how
        theta = threshold_of(shift, gain)
        fast = passes.cut(x, theta, how[3]) if isinstance(theta, Tensor) else None
        return signs_at(x, theta, how[3]) if fast is None else fast

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, gain, beta = ctx.saved_tensors
        kind, k, tau, _ = ctx.how
        if beta is not None:
            k = tau = float(beta)
        elif shift is not None and ctx.needs_input_grad[0]:
            fast = passes.cut_backward(x, grads[0], gain, shift, kind)
            if fast is not None:
                return fast[0], fast[1].reshape(shift.shape), None, None, None
        v, grad = _seen(x, shift, gain), grads[0]
        to_shift = to_beta = None
        if beta is not None and ctx.needs_input_grad[3]:
            to_beta = (grad * v * (1 - (beta * v).tanh().square())).sum_to_size(beta.shape)
        out = SURROGATES[kind](v, k, tau).mul_(grad)
        if shift is not None and ctx.needs_input_grad[1]:
            to_shift = out.sum_to_size(shift.shape).to(shift.dtype)
        if not ctx.needs_input_grad[0]:
            return None, to_shift, None, to_beta, None
        out = out if gain is None else out.mul_(gain)
        return out.to(x.dtype), to_shift, None, to_beta, None


def _seen(x: Tensor, shift: Tensor | None, gain: Tensor | None) -> Tensor:
    """gain x + shift in memory of its own, at least float32."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if gain is not None:
        return wide * gain if shift is None else (wide * gain).add_(shift)
    return wide.clone() if shift is None else wide + shift


def threshold_of(shift: Tensor | None, gain: Tensor | None) -> Tensor | float:
    """Where Sign(gain x + shift) turns: -shift / gain, exact where gain is a power of two."""
    if shift is None:
        return 0.0
    return -shift if gain is None else -shift / gain


def binarise(
    x: Tensor, shift: Tensor | None = None, kind: str = "approx", *, gain: Tensor | None = None,
    beta: Tensor | None = None, k: float = 1.0, tau: float = 1.0, dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Sign(gain x + shift) with the gradient of a surrogate for x and shift.

    Forward compares x >= -shift / gain, which is the same for all finite numbers, bit for bit.
    Shapes: x any; shift and gain (positive powers of two, a constant) broadcast against x; beta ()
    is the learnable slope of `tanh`. Returns: like x, or of `dtype`, +1 and -1.
    """
    if kind not in SURROGATES:
        raise UsageError(f"a surrogate is one of {', '.join(SURROGATES)}, not {kind!r}")
    how = kind, k, tau, x.dtype if dtype is None else dtype
    result: Tensor = _Binarise.apply(x, shift, gain, beta, how)  # type: ignore[no-untyped-call]
    return result


class Sign(nn.Module):
    """Sign(x + shift) with the surrogate of a method and what it needs to know.

    beta: the learnable slope of `tanh`, 1 at first. k, tau: of `ede`, set by `progress`.
    """

    beta: nn.Parameter | None

    def __init__(self, kind: str = "approx") -> None:
        super().__init__()
        if kind not in SURROGATES:
            raise UsageError(f"a surrogate is one of {', '.join(SURROGATES)}, not {kind!r}")
        self.kind = kind
        self.beta = nn.Parameter(torch.ones(())) if kind == "tanh" else None
        self.k, self.tau = ede(0.0) if kind == "ede" else (1.0, 1.0)

    def forward(
        self, x: Tensor, shift: Tensor | None = None, gain: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:  # fmt: skip
        """Sign(gain x + shift). Shapes: both broadcast against x. Returns: like x, +1 and -1."""
        return binarise(
            x, shift, self.kind, gain=gain, beta=self.beta, k=self.k, tau=self.tau, dtype=dtype
        )

    def progress(self, share: float) -> None:
        """Tells `ede` which share of the training is done; the others do not change."""
        if self.kind == "ede":
            self.k, self.tau = ede(share)

    def extra_repr(self) -> str:
        """The surrogate, for print(model)."""
        return self.kind


def ede(share: float, low: float = -3.0, high: float = 1.0) -> tuple[float, float]:
    """k and tau of the error decay estimator when a share in [0, 1] of the training is done.

    Source: IR-Net (CVPR 2020), section 3.3, with the exponents of its code for CIFAR.
    """
    tau = 10.0 ** (low + (high - low) * min(max(share, 0.0), 1.0))
    return max(1.0 / tau, 1.0), tau
