"""A binary block in training in few passes over memory: what the blocks of a step spend is here.

From signs on, a block is p = conv(s, Sign(w)), whole numbers, and

    v = factor p + shift (+ shortcut)       factor = alpha scale gain, over the norm's deviation
    y = leaky(v; slope) + after (+ shortcut)

with one row of numbers for all samples or one for each. Torch needs ten passes forward and twenty
backward; the kernels need three and two. Means and variances of a batch norm come from the sums of
p and of its squares. Gradients are those of the plain definition, up to the order of sums.

In bfloat16 p is exact up to 256, and up to 512 where it is even (an even number of channels);
what is larger is rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bitcompress import native
from bitcompress.layers.binary.core import Latent, binary_weight
from bitcompress.layers.binary.norms import ChannelBatchNorm
from bitcompress.packed.binary import Look
from bitcompress.quant.passes import raw, rows
from bitcompress.quant.weights import WEIGHTS

LAST = torch.channels_last


class Plan(NamedTuple):
    """What the learnt numbers do not say.

    latent: None while the weights are real. norm: a batch norm, on the statistics of the batch; its
    gain and shift are those of the numbers. bias (O,) stands before it and moves its mean alone.
    behind: whether the shortcut comes after the activation.
    """

    latent: Latent | None
    look: Look
    behind: bool
    norm: ChannelBatchNorm | None = None
    bias: Tensor | None = None


class Numbers(NamedTuple):
    """What a block has learnt, for each output channel.

    Shapes: alpha (N, 1), gain and shift (O,), the others (1, O) or (N, O); any may be None.
    """

    alpha: Tensor | None = None
    gain: Tensor | None = None
    shift: Tensor | None = None
    before: Tensor | None = None
    slope: Tensor | None = None
    after: Tensor | None = None

    def exact(self) -> Numbers:
        """The same in float64, without gradients."""
        return Numbers(*(None if t is None else t.detach().double() for t in self))

    @property
    def rows(self) -> bool:
        """Whether samples have numbers of their own."""
        apart = (self.alpha, self.before, self.slope, self.after)
        return any(t is not None and len(t) > 1 for t in apart)


class Statistics(NamedTuple):
    """Of a batch, in float64: mean and 1 / deviation of z (O,); sums of p and of p p (G, O)."""

    mean: Tensor
    over: Tensor
    sums: Tensor
    squares: Tensor
    pixels: int


def takes(x: Tensor) -> bool:
    """Whether the kernels take a block with this input: pictures whose channels lie together."""
    if native.kernels() is None or native.is_traced() or not native.takes(x.detach()):
        return False
    return x.dim() == 4 and x.is_contiguous(memory_format=LAST)


def fused(s: Tensor, w: Tensor, numbers: Numbers, beside: Tensor | None, plan: Plan) -> Tensor:
    """The output of a block for the signs of what `takes` takes.

    Shapes: s (N, C, H, W), w (O, C/groups, KH, KW), beside (N, O, OH, OW) or None. Returns: like
    beside, float32.
    """
    y: Tensor = _Fused.apply(s, w, beside, plan, *numbers)  # type: ignore[no-untyped-call]
    return y


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, s: Tensor, w: Tensor, beside: Tensor | None, plan: Plan, *learnt: Tensor | None
    ) -> Tensor:  # fmt: skip
        own, rule = Numbers(*learnt), None
        signs, scale = w.detach(), torch.ones(len(w))
        if plan.latent is not None:
            rule = WEIGHTS[plan.latent.rule]
            signs, scale = binary_weight(w, plan.latent, rough=True)
        look = plan.look
        p = F.conv2d(
            s, signs.to(s.dtype), None, look.stride, look.padding, look.dilation, look.groups
        ).contiguous(memory_format=LAST)
        each, exact = own.rows, own.exact()
        seen = None if plan.norm is None else _statistics(p, scale.double(), exact, plan, each)
        tables = _tables(scale.double(), exact, seen, len(p) if each else 1)
        laid = None if beside is None else beside.contiguous(memory_format=LAST)
        y = torch.empty_like(p, dtype=torch.float32)
        _kernels().learn_tail(
            _rows(p, each), tables[:, :4].contiguous(), _rows(laid, each), plan.behind,
            _rows(y, each), native.threads(),
        )  # fmt: skip
        kept = w if rule is None or rule.before is None else w.detach().clone()
        ctx.save_for_backward(s, kept, p, None if plan.behind else laid, signs, scale, tables)
        ctx.rest = plan, exact, seen, each
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        s, w, p, inside, signs, scale, tables = ctx.saved_tensors
        plan, exact, seen, each = ctx.rest
        grad, needs = grads[0].contiguous(memory_format=LAST), ctx.needs_input_grad
        to_v = None if inside is None and seen is None else torch.empty_like(grad)
        to_p = None if seen is not None else torch.empty_like(p)
        given = tables[:, 1:].contiguous()
        sums = torch.empty_like(given)
        _kernels().learn_tail_back(
            _rows(p, each), given, _rows(inside, each), _rows(grad, each), _rows(to_v, each),
            _rows(to_p, each), sums, native.threads(),
        )  # fmt: skip
        of_grad, of_leak, of_v, of_product = sums.double().unbind(1)
        found = _normed(exact, scale.double(), seen, of_v, of_product)
        if to_p is None:
            assert found.tables is not None
            to_p, table = torch.empty_like(p), torch.empty(len(tables), 3, len(w))
            for kind, value in enumerate(found.tables):
                table[:, kind] = value
            _kernels().learn_norm_back(
                _rows(to_v, each), _rows(p, each), table, _rows(to_p, each), native.threads()
            )
        to_s, to_w = _product(to_p, s, w, signs * scale.view(-1, 1, 1, 1), plan, needs[:2])
        rest = (exact.before, of_v), (exact.slope, of_leak), (exact.after, of_grad)
        small = [found.alpha, found.gain, found.shift]
        small += [None if t is None else g.sum_to_size(t.shape) for t, g in rest]
        to_beside = None if not needs[2] else grad if inside is None else to_v
        return to_s, to_w, to_beside, None, *(None if g is None else g.float() for g in small)


def _kernels() -> Any:
    return native.kernels()


def _rows(x: Tensor | None, each: bool) -> Tensor | None:
    """x (N, O, H, W) as the kernels read it: a group for each sample, or one."""
    if x is None:
        return None
    whole = rows(x.detach(), 1)
    assert whole is not None
    return raw(whole if each else whole.reshape(1, -1, whole.shape[2]))


def _statistics(p: Tensor, scale: Tensor, own: Numbers, plan: Plan, each: bool) -> Statistics:
    """Of z = alpha scale p over the batch; the norm takes them into its running ones."""
    there = _rows(p, each)
    assert there is not None and plan.norm is not None
    totals = torch.empty(there.shape[0], 2, there.shape[2])
    _kernels().learn_moments(there, totals, native.threads())
    sums, squares = totals.double().unbind(1)
    alpha, count = _or(own.alpha, 1), p.numel() // p.shape[1]
    mean = (alpha * sums).sum(0) * scale / count
    variance = ((alpha * alpha * squares).sum(0) * scale * scale / count - mean * mean).clamp(min=0)
    plan.norm.take(mean if plan.bias is None else mean + plan.bias.detach(), variance, count)
    return Statistics(mean, (variance + plan.norm.eps).rsqrt(), sums, squares, count)


def _or(values: Tensor | None, otherwise: float) -> Tensor | float:
    return otherwise if values is None else values


def _tables(scale: Tensor, own: Numbers, seen: Statistics | None, groups: int) -> Tensor:
    """after, factor, shift, slope, and what to_v becomes to_p with. Returns: (G, 5, O)."""
    gain, shift = _or(own.gain, 1), _or(own.shift, 0)
    if seen is not None:
        gain = gain * seen.over
        shift = shift - seen.mean * gain
    back = gain * _or(own.alpha, 1)
    found = torch.empty(groups, 5, len(scale))
    numbers = _or(own.after, 0), back * scale, shift + _or(own.before, 0), _or(own.slope, 1), back
    for kind, value in enumerate(numbers):
        found[:, kind] = value
    return found


class Normed(NamedTuple):
    """Gradients of what stands between p and v; of a batch norm also those of p, by to_v, p, 1."""

    alpha: Tensor | None
    gain: Tensor | None
    shift: Tensor | None
    tables: tuple[Tensor, Tensor, Tensor] | None


def _normed(
    own: Numbers, scale: Tensor, seen: Statistics | None, of_v: Tensor, of_product: Tensor
) -> Normed:
    """From the sums of to_v and of to_v p, (G, O)."""
    alpha, total = _or(own.alpha, 1), of_v.sum(0)
    along = (alpha * of_product).sum(0) * scale  # of to_v z
    to_shift = None if own.shift is None else total
    if seen is None:
        to_alpha = (of_product * scale * _or(own.gain, 1)).sum(1, keepdim=True)
        return Normed(
            None if own.alpha is None else to_alpha, None if own.gain is None else along, to_shift,
            None,
        )  # fmt: skip
    along = (along - seen.mean * total) * seen.over  # of to_v and the normed z
    gain = _or(own.gain, 1) * seen.over
    m, k = total / seen.pixels, along / seen.pixels
    left = of_product - m * seen.sums - k * seen.over * (
        alpha * scale * seen.squares - seen.mean * seen.sums
    )  # fmt: skip
    to_alpha = (left * scale * gain).sum(1, keepdim=True)
    tables = (
        alpha * gain, -alpha * alpha * gain * seen.over * k * scale,
        alpha * gain * (seen.mean * seen.over * k - m),
    )  # fmt: skip
    return Normed(
        None if own.alpha is None else to_alpha, None if own.gain is None else along, to_shift,
        tables,
    )  # fmt: skip


def _product(
    to_p: Tensor, s: Tensor, w: Tensor, weight: Tensor, plan: Plan, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the signs and of the latent weight."""
    look, latent = plan.look, plan.latent
    to_s, to_w, _ = torch.ops.aten.convolution_backward(
        to_p, s, weight.to(s.dtype), None, look.stride, look.padding, look.dilation, False, [0, 0],
        look.groups, [*needs, False],
    )  # fmt: skip
    to_w = None if to_w is None else to_w.to(w.dtype)
    if to_w is not None and latent is not None:
        flat = (latent.filters, -1)
        to_w = WEIGHTS[latent.rule].gradient(
            to_w.reshape(flat), w.detach().reshape(flat), latent.around
        ).view(w.shape)  # fmt: skip
    return to_s, to_w
