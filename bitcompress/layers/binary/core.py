"""The product inside a block: exact sums of signs, one scale a filter, the published gradient.

Forward is scale * conv(sign, Sign(w)): integers first, so that the packed twin finds the same
numbers. Backward is that of conv(sign, scale * Sign(w)), whose weight gradient the method's rule
turns into one of the latent weight.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.layers.geometry import ConvGeometry
from bitcompress.packed import definition
from bitcompress.packed.binary import Look, times
from bitcompress.quant.sign import ede
from bitcompress.quant.weights import WEIGHTS, Surroundings


class Latent(NamedTuple):
    """How a latent weight is read: its rule, and how many filters share out its rows."""

    rule: str
    filters: int
    around: Surroundings


def binary_weight(w: Tensor, latent: Latent, *, rough: bool = False) -> tuple[Tensor, Tensor]:
    """Signs like w (O, I, KH, KW), and a scale for each row, (O,)."""
    rows = w.detach().reshape(latent.filters, -1)
    signs, scale = WEIGHTS[latent.rule].binary(rows, latent.around, rough=rough)
    return signs.view(w.shape), scale.repeat_interleave(len(w) // latent.filters)


EXACT_ODD, EXACT_EVEN = 256, 512
"""Integers up to the first are exact in bfloat16, even ones up to the second."""


def exact_parts(inputs: int, taps: int) -> list[int]:
    """Cuts inputs so that no sum of signs over a part and all taps is rounded in bfloat16.

    A sum over an even number of inputs is even, border or not. Returns: inputs of each part, or
    nothing where the taps of one input are too many.
    """
    if taps > EXACT_ODD:
        return []
    most, parts = max(EXACT_EVEN // taps // 2 * 2, 1), []
    while inputs:
        size = min(most, inputs)
        if size % 2 and size * taps > EXACT_ODD:
            size -= 1
        parts.append(size)
        inputs -= size
    return parts


def parted_sums(s: Tensor, signs: Tensor, look: Look) -> Tensor:
    """Exact sums of signs by convolutions in bfloat16, whose own sums are float32.

    Shapes: s (N, C, H, W), signs (O, C/groups, KH, KW). Returns: (N, O, OH, OW), bfloat16 of one
    part or float32 of several.
    """
    parts = exact_parts(signs.shape[1], signs[0, 0].numel())
    if not parts or (len(parts) > 1 and look.groups > 1):
        return _conv(s.float(), signs, look)
    s, signs = s.bfloat16(), signs.bfloat16()
    if len(parts) == 1:
        return _conv(s, signs, look)
    total: Tensor | None = None
    for some, weights in zip(torch.split(s, parts, 1), torch.split(signs, parts, 1), strict=True):
        part = _conv(some, weights, look).float()
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def _conv(x: Tensor, w: Tensor, look: Look, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(x, w, bias, look.stride, look.padding, look.dilation, look.groups)


class How(NamedTuple):
    """How a product is computed.

    exact: integers first, then one rounding, as the packed twin; else the scale is in the weight.
    half: exact integers by convolutions in bfloat16, of signs only; gradients in bfloat16.
    """

    latent: Latent
    look: Look
    exact: bool
    half: bool = False


class _Product(torch.autograd.Function):
    """scale gain conv(s, Sign(w)) + shift; gain and shift (O,) or None."""

    @staticmethod
    def forward(
        ctx: Any, s: Tensor, w: Tensor, gain: Tensor | None, shift: Tensor | None, how: How
    ) -> Tensor:
        signs, scale = binary_weight(w, how.latent, rough=not how.exact)
        kept = w if WEIGHTS[how.latent.rule].before is None else w.detach().clone()
        ctx.save_for_backward(s, kept, gain, signs, scale)
        ctx.how, ctx.shifts = how, shift is not None
        factor = scale if gain is None else scale * gain
        if how.exact:
            z = times(_conv(s, signs, how.look).round_(), factor)
            return z if shift is None else z + shift.view(1, -1, 1, 1)
        if how.half:
            z = parted_sums(s, signs, how.look) * factor.view(1, -1, 1, 1)
            return z if shift is None else z.add_(shift.view(1, -1, 1, 1))
        return _conv(s, signs * factor.view(-1, 1, 1, 1), how.look, shift)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        s, w, gain, signs, scale = ctx.saved_tensors
        latent, look, _, half = ctx.how
        factor, grad = (scale if gain is None else scale * gain), grads[0]
        weight, kind = signs * factor.view(-1, 1, 1, 1), torch.bfloat16 if half else s.dtype
        wants = [ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3]), ctx.shifts]
        to_s, raw, to_shift = torch.ops.aten.convolution_backward(
            grad.to(kind), s.to(kind), weight.to(kind), [len(w)] if ctx.shifts else None,
            look.stride, look.padding, look.dilation, False, [0, 0], look.groups, wants,
        )  # fmt: skip
        to_w = to_gain = None
        raw = None if raw is None else raw.to(w.dtype)
        if raw is not None and ctx.needs_input_grad[1]:
            real = raw if gain is None else raw * gain.view(-1, 1, 1, 1)
            rows = (latent.filters, -1)
            to_w = WEIGHTS[latent.rule].gradient(
                real.reshape(rows), w.detach().reshape(rows), latent.around
            ).view(w.shape)  # fmt: skip
        if raw is not None and gain is not None and ctx.needs_input_grad[2]:
            to_gain = (raw * signs).flatten(1).sum(1) * scale
        to_shift = None if to_shift is None else to_shift.to(w.dtype)
        return None if to_s is None else to_s.to(s.dtype), to_w, to_gain, to_shift, None


class BinaryCore(nn.Module):
    """The latent weight of a layer, as one of pictures, and its product with signs.

    weight (O, C/groups, KH, KW): that of the float layer (layers/geometry.py); a Linear is 1 x 1.
    stage: `both` binarises the weight, `activations` keeps it real (the first of two stages).
    """

    def __init__(self, weight: Tensor, rule: str, geometry: ConvGeometry, pad_value: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone().contiguous())
        self.rule, self.geometry, self.pad_value = rule, geometry, pad_value
        self.stage = "both"
        self.share = 0.0

    @property
    def copies(self) -> int:
        """How many rows of the weight belong to one filter of the float layer."""
        return 1 if self.geometry.up is None else self.geometry.up[0] * self.geometry.up[1]

    @property
    def look(self) -> Look:
        """Where it looks, once the borders of other modes are padded."""
        g = self.geometry
        return Look(g.stride, g.padding, g.dilation, g.groups, self.pad_value)

    def latent(self) -> Latent:
        """How the weight is read."""
        k, tau = ede(self.share)
        return Latent(
            self.rule, len(self.weight) // self.copies, Surroundings(self.weight.shape[1], k, tau)
        )

    def forward(
        self, s: Tensor, gain: Tensor | None = None, shift: Tensor | None = None, *,
        reals: bool = False,
    ) -> Tensor:  # fmt: skip
        """scale gain conv(s, Sign(w)) + shift, or gain conv(s, w) + shift with real weights.

        In eval in the order of the packed twin. reals: s holds more than signs.
        Shapes: s (N, C, H, W); gain, shift (O,) of rows. Returns: (N, O, OH, OW) float32.
        """
        half = self.training and torch.is_autocast_enabled(s.device.type) and not reals
        with torch.autocast(s.device.type, enabled=False):
            s, look = self.bordered(s if half else s.float())
            if self.stage == "activations":
                w = self.weight if gain is None else self.weight * gain.view(-1, 1, 1, 1)
                y = _conv(s, w.to(s.dtype), look).float()
                return y if shift is None else y + shift.view(1, -1, 1, 1)
            self.prepare()
            latent = self.latent()
            how = How(latent, look, not self.training and not reals, half)
            result: Tensor = _Product.apply(s, self.weight, gain, shift, how)  # type: ignore[no-untyped-call]
            return result

    def prepare(self) -> None:
        """Bring the latent weight to where its rule wants it before a step of training."""
        before, latent = WEIGHTS[self.rule].before, self.latent()
        if self.training and before is not None and torch.is_grad_enabled():
            with torch.no_grad():
                rows = self.weight.reshape(latent.filters, -1)
                self.weight.copy_(before(rows, latent.around).view(self.weight.shape))

    def sums(self, s: Tensor, signs: Tensor) -> Tensor:
        """The exact sums of products of signs, as float32 integers; no gradient."""
        s, look = self.bordered(s)
        kind = definition.carrier(1, 1, int(signs[0].numel()))
        p = F.conv2d(
            s.to(kind), signs.to(kind), None, look.stride, look.padding, look.dilation, look.groups
        )
        return p.round_().float()

    def bordered(self, s: Tensor) -> tuple[Tensor, Look]:
        """s with the signs of its border where those are no zeros, and the look that is left."""
        look = self.look
        if look.pad_value == 0 or look.padding == (0, 0):
            return s, look
        (rows, columns), value = look.padding, float(look.pad_value)
        wide = F.pad(s, (columns, columns, rows, rows), value=value)
        return wide, Look(look.stride, (0, 0), look.dilation, look.groups, 0)

    def extra_repr(self) -> str:
        """Shape and rule, for print(model)."""
        return f"{tuple(self.weight.shape)}, {self.rule}"
