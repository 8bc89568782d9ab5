"""A block is brought near the float layer that it stands for: one affine a channel, least squares.

With u the scaled sums and c the shortcut, gain, shift and the shortcut's gain k minimise
|t - (gain u + shift + k c)|^2 over calibration data, t being what the float layer gave there. So no
channel comes out larger than the float model had it, whatever the shortcut adds. A shortcut whose
gain does not learn keeps its published gain of 1.

Where a batch norm belongs to the block its output keeps the deviation of the target instead: signs
explain little of a layer, and what least squares leave shrinks from block to block, until the
steps of a learning rate made for normed features are larger than the features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitcompress.blocks.cuts import by_channel, opened
from bitcompress.layers.binary import BinaryBlock

LEAST = 0.1
"""The least part of the target's deviation that binary sums keep, so that they go on learning."""
SMALLEST = 1e-12


class Wanted(NamedTuple):
    """What a float layer gave: before the activation that its block took over, and after it.

    Shapes: (O, M) numbers of each channel, picked as `by_channel` does.
    """

    before: Tensor
    after: Tensor


class Affine(NamedTuple):
    """What least squares found. Shapes: (O,)."""

    gain: Tensor
    shift: Tensor
    shortcut: Tensor


@torch.no_grad()
def fit(block: BinaryBlock, x: Tensor, wanted: Wanted) -> float:
    """Set norm, shift and shortcut gain of a block. Returns: the share of the target explained."""
    scaled, shortcut = block.parts(x)
    norm = block.norm
    _unit(norm)
    base = norm(scaled) if isinstance(norm, nn.Module) and _is_layer_norm(norm) else scaled
    u = by_channel(base, block.axis)
    c = None if shortcut is None else by_channel(shortcut, block.axis)
    rule = block.spec.rule
    own = None if block.shortcut is None else block.shortcut.gain
    free = own is not None and own.requires_grad
    if c is None or rule.before:
        found = regress(u, wanted.before, None, free=True)
    else:
        found = regress(u, wanted.before, c, free=free)
    rest = wanted.before if c is None or rule.before else _less(wanted.before, c, found)
    found = _kept(found, u, rest, 1.0 if isinstance(norm, _BatchNorm) else LEAST)
    _write(block, found, scaled)
    if c is not None and rule.before:
        found = found._replace(shortcut=_beside(block, x, c, wanted.after, free=free))
    if own is not None and free:
        own.copy_(found.shortcut)
    y = by_channel(opened(block, block(x)), block.axis)
    apart = wanted.after - wanted.after.mean(1, keepdim=True)
    power = apart.square().sum().clamp(min=SMALLEST)
    return 1.0 - float((wanted.after - y).square().sum() / power)


def regress(u: Tensor, t: Tensor, c: Tensor | None, *, free: bool) -> Affine:
    """Least squares of t on u, c and 1 for each row; c's factor in [0, 1], or 1 where not free.

    Shapes: u, t, c (O, M).
    """
    u, t = u.double(), t.double()
    one = torch.ones(len(u), dtype=torch.float64, device=u.device)
    if c is None:
        gain, shift = _line(u, t)
        return Affine(gain, shift, one)
    c, k = c.double(), one
    if free:
        uu, cc, uc = _cov(u, u), _cov(c, c), _cov(u, c)
        ut, ct = _cov(u, t), _cov(c, t)
        det = (uu * cc - uc * uc).clamp(min=SMALLEST)
        both = uu * cc - uc * uc > 1e-9 * uu * cc
        k = torch.where(both, (uu * ct - uc * ut) / det, torch.zeros_like(one)).clamp(0, 1)
    gain, shift = _line(u, t - k[:, None] * c)
    return Affine(gain, shift, k)


def _line(u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and shift of t on u for each row."""
    gain = _cov(u, t) / _cov(u, u).clamp(min=SMALLEST)
    return gain, t.mean(1) - gain * u.mean(1)


def _cov(a: Tensor, b: Tensor) -> Tensor:
    return ((a - a.mean(1, keepdim=True)) * (b - b.mean(1, keepdim=True))).mean(1)


def _less(t: Tensor, c: Tensor, found: Affine) -> Tensor:
    """What the sums shall give beside the shortcut, or all of it where that is less."""
    rest = t - (found.shortcut[:, None] * c).to(t.dtype)
    return torch.where((rest.std(1) < t.std(1))[:, None], rest, t)


def _kept(found: Affine, u: Tensor, t: Tensor, share: float) -> Affine:
    """The same with no gain so small that sums deviate by less than that share of the target."""
    u, t = u.double(), t.double()
    least = share * t.std(1, correction=0) / u.std(1, correction=0).clamp(min=SMALLEST)
    least = torch.where(u.std(1, correction=0) > SMALLEST, least, torch.zeros_like(least))
    sign = torch.where(found.gain < 0, -1.0, 1.0).double()
    gain = sign * torch.maximum(found.gain.abs(), least)
    return Affine(gain, found.shift + (found.gain - gain) * u.mean(1), found.shortcut)


def _unit(norm: nn.Module | None) -> None:
    """A norm that multiplies by one and adds nothing."""
    if norm is not None:
        norm.weight.fill_(1.0)  # type: ignore[operator]
        norm.bias.fill_(0.0)  # type: ignore[operator]


def _is_layer_norm(norm: nn.Module) -> bool:
    return hasattr(norm, "eps") and not isinstance(norm, _BatchNorm)


def _write(block: BinaryBlock, found: Affine, scaled: Tensor) -> None:
    """Put gain and shift where the block has them."""
    gain, shift, norm = found.gain, found.shift, block.norm
    if isinstance(norm, _BatchNorm):
        assert norm.running_mean is not None and norm.running_var is not None
        z = by_channel(scaled, block.axis).double()
        mean, var = z.mean(1), z.var(1, correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.weight.copy_(gain * (var + norm.eps).sqrt())
        norm.bias.copy_(shift + gain * mean)
        if block.bias is not None:
            block.bias.zero_()
        return
    if norm is not None:
        norm.weight.copy_(gain)
        norm.bias.copy_(shift)
        if block.bias is not None:
            block.bias.zero_()
        return
    # Without a norm the scale of the latent weight is the gain; it has no sign to give.
    rows = gain.clamp(min=SMALLEST).float().repeat_interleave(block.core.copies)
    block.core.weight.mul_(rows.view(-1, 1, 1, 1))
    activation = block.activation
    if block.bias is not None:
        block.bias.copy_(shift)
    elif block.spec.rule.before and activation is not None and activation.before is not None:
        activation.before.copy_(shift.float().expand(activation.before.shape))


def _beside(block: BinaryBlock, x: Tensor, c: Tensor, after: Tensor, *, free: bool) -> Tensor:
    """The shortcut's gain where it is added behind the activation; what is left moves its end."""
    scaled, _ = block.parts(x)
    kept, block.shortcut = block.shortcut, None
    alone = by_channel(opened(block, block(x)), block.axis).double()
    block.shortcut = kept
    k, _ = _line(c.double(), after.double() - alone)
    k = k.clamp(0, 1) if free else torch.ones_like(k)
    shift = (after.double() - alone).mean(1) - k * c.double().mean(1)
    activation = block.activation
    if activation is not None and activation.after is not None:
        activation.after.add_(shift.float()[None])
    return k
