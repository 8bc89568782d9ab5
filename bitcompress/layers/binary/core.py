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


def binary_weight(w: Tensor, latent: Latent) -> tuple[Tensor, Tensor]:
    """Signs like w (O, I, KH, KW), and a scale for each row, (O,)."""
    signs, scale = WEIGHTS[latent.rule].binary(w.detach().view(latent.filters, -1), latent.around)
    return signs.view(w.shape), scale.repeat_interleave(len(w) // latent.filters)


class _Product(torch.autograd.Function):
    """scale gain conv(s, Sign(w)); gain (O,) or None."""

    @staticmethod
    def forward(
        ctx: Any, s: Tensor, w: Tensor, gain: Tensor | None, latent: Latent, look: Look
    ) -> Tensor:
        signs, scale = binary_weight(w, latent)
        ctx.save_for_backward(s, w, gain, signs, scale)
        ctx.latent, ctx.look = latent, look
        factor = scale if gain is None else scale * gain
        p = F.conv2d(s, signs, None, look.stride, look.padding, look.dilation, look.groups)
        return times(p, factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        s, w, gain, signs, scale = ctx.saved_tensors
        latent, look = ctx.latent, ctx.look
        factor = scale if gain is None else scale * gain
        wants = [ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:3]), False]
        to_s, raw, _ = torch.ops.aten.convolution_backward(
            grads[0], s, signs * factor.view(-1, 1, 1, 1), None, look.stride, look.padding,
            look.dilation, False, [0, 0], look.groups, wants,
        )  # fmt: skip
        to_w = to_gain = None
        if ctx.needs_input_grad[1]:
            real = raw if gain is None else raw * gain.view(-1, 1, 1, 1)
            rows = (latent.filters, -1)
            to_w = WEIGHTS[latent.rule].gradient(
                real.reshape(rows), w.detach().view(rows), latent.around
            ).view(w.shape)  # fmt: skip
        if gain is not None and ctx.needs_input_grad[2]:
            to_gain = (raw * signs).flatten(1).sum(1) * scale
        return to_s, to_w, to_gain, None, None


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

    def forward(self, s: Tensor, gain: Tensor | None = None) -> Tensor:
        """scale gain conv(s, Sign(w)), or gain conv(s, w) in the stage `activations`.

        Shapes: s (N, C, H, W) signs, or signs times a scale; gain (O,) of rows.
        Returns: (N, O, OH, OW).
        """
        with torch.autocast(s.device.type, enabled=False):
            s, look = self._bordered(s.float())
            if self.stage == "activations":
                y = F.conv2d(
                    s, self.weight, None, look.stride, look.padding, look.dilation, look.groups
                )
                return y if gain is None else y * gain.view(1, -1, 1, 1)
            rule = WEIGHTS[self.rule]
            if self.training and rule.before is not None and torch.is_grad_enabled():
                with torch.no_grad():
                    latent = self.latent()
                    rows = self.weight.view(latent.filters, -1)
                    rows.copy_(rule.before(rows, latent.around))
            result: Tensor = _Product.apply(s, self.weight, gain, self.latent(), look)  # type: ignore[no-untyped-call]
            return result

    def sums(self, s: Tensor, signs: Tensor) -> Tensor:
        """The exact sums of products of signs, as float32 integers; no gradient."""
        s, look = self._bordered(s)
        kind = definition.carrier(1, 1, int(signs[0].numel()))
        p = F.conv2d(
            s.to(kind), signs.to(kind), None, look.stride, look.padding, look.dilation, look.groups
        )
        return p.round_().float()

    def _bordered(self, s: Tensor) -> tuple[Tensor, Look]:
        look = self.look
        if look.pad_value == 0 or look.padding == (0, 0):
            return s, look
        (rows, columns), value = look.padding, float(look.pad_value)
        wide = F.pad(s, (columns, columns, rows, rows), value=value)
        return wide, Look(look.stride, (0, 0), look.dilation, look.groups, 0)

    def extra_repr(self) -> str:
        """Shape and rule, for print(model)."""
        return f"{tuple(self.weight.shape)}, {self.rule}"
