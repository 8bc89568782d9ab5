"""What a layer of one bit means: bits of x, exact sums of signs, an ordered tail of steps.

    bit  = x >= theta                     raw x; NaN has bit 0; the value is +1 or -1
    p    = sum of sign(bit) * sign(w)     over the taps inside the picture, an exact integer
    z    = float32(scale * p)             one rounding
    y    = tail(z)                        steps in order, float32, one rounding an operation

Where a scale of the activations belongs to each word of 32 channels (DAB `group`), z is
scale * (s_0 p_0 + s_1 p_1 + ...), from left to right. The trained layer in eval and the packed twin
both call what stands here; only the way to p differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bitcompress import native
from bitcompress.errors import ShapeError
from bitcompress.packed import definition, ops
from bitcompress.packed.dab import WORD
from bitcompress.packed.norm import layer_norm
from bitcompress.packed.stored import unpack
from bitcompress.packed.tape import recorder
from bitcompress.quant.sign import signs

Pair = Sequence[int]


@dataclass(frozen=True)
class Look:
    """Where a convolution of pictures looks: the arguments of conv2d, and what is at the border.

    pad_value: 0 counts nothing outside the picture; +1 or -1 is a sign that stands there.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    pad_value: int = 0


def bits_of(x: Tensor, theta: Tensor) -> Tensor:
    """x >= theta as 0 and 1; theta broadcasts against x. Returns: like x, uint8."""
    return (x >= theta).to(torch.uint8)


def padded_bits(bits: Tensor, look: Look) -> tuple[Tensor, Look]:
    """Signs of the border written out where they are +1 or -1.

    Shapes: bits (N, C, H, W) uint8. Returns: likewise, and the look without that border.
    """
    if look.pad_value == 0 or look.padding == (0, 0):
        return bits, look
    (rows, columns), value = look.padding, 1 if look.pad_value > 0 else 0
    wide = F.pad(bits, (columns, columns, rows, rows), value=value)
    return wide, Look(look.stride, (0, 0), look.dilation, look.groups, 0)


def sign_sums(bits: Tensor, w: Tensor, look: Look) -> Tensor:
    """Sums of products of signs, exact; taps outside the picture are true zeros.

    Shapes: bits (N, C, H, W), w (O, C/groups, KH, KW), both 0 and 1 in uint8.
    Returns: (N, O, OH, OW) int32.
    """
    bits, look = padded_bits(bits, look)
    ops.conv2d_size(bits.shape, w.shape, look.stride, look.padding, look.dilation)
    kind = definition.carrier(1, 1, int(w[0].numel()))
    sums = F.conv2d(
        signs(bits, kind), signs(w, kind), None, look.stride, look.padding, look.dilation,
        look.groups,
    )  # fmt: skip
    return sums.round_().to(torch.int32)


def scaled_sums(bits: Tensor, w: Tensor, scale: Tensor, look: Look) -> Tensor:
    """float32(scale * p) of the sums p of `sign_sums`: the native kernel, or the definition.

    A code 0 or 1 of x is read as 2 code - 1, one of w as 2 scale code - scale; in float64 that is
    scale * p without rounding.
    Shapes: bits and w as in `sign_sums`; scale (O,). Returns: (N, O, OH, OW) float32.
    """
    bits, look = padded_bits(bits, look)
    if w[0].numel() > ops.LONGEST_NATIVE:
        return definition_of_sums(bits, w, scale, look)
    one = torch.ones(1, dtype=torch.float32, device=bits.device)
    return ops.conv2d_reals(
        bits.permute(0, 2, 3, 1).contiguous(), w, (1, 1), (2 * one, -one), (2 * scale, -scale),
        None, look.stride, look.padding, look.dilation, look.groups,
    )  # fmt: skip


def definition_of_sums(bits: Tensor, w: Tensor, scale: Tensor, look: Look) -> Tensor:
    """The meaning of `scaled_sums`, in torch."""
    return times(sign_sums(bits, w, look).float(), scale)


def times(p: Tensor, scale: Tensor) -> Tensor:
    """scale * p for integers p (N, O, OH, OW), with +0 for p = 0 whatever the sign of the scale."""
    z = p * scale.view(1, -1, 1, 1)
    return z + 0.0 if bool((scale.detach() < 0).any()) else z


def word_sums(bits: Tensor, w: Tensor, scale: Tensor, words: Tensor, look: Look) -> Tensor:
    """scale * (s_0 p_0 + s_1 p_1 + ...), p_i the sum over word i of 32 channels.

    Shapes: bits (N, C, H, W), w (O, C, KH, KW), scale (O,), words (N, C / 32 rounded up).
    Returns: (N, O, OH, OW) float32.
    """
    one = torch.ones(len(scale), dtype=torch.float32, device=bits.device)
    total: Tensor | None = None
    for number, part in enumerate(torch.split(bits, WORD, 1)):
        taps = w[:, number * WORD : number * WORD + part.shape[1]].contiguous()
        term = scaled_sums(part, taps, one, look) * words[:, number].view(-1, 1, 1, 1)
        total = term if total is None else total + term
    assert total is not None
    return times(total, scale)


@dataclass(frozen=True)
class TailStep:
    """One step after the sums.

    kind      meaning
    add, mul  z + t, z * t
    leaky     z * t where z < 0
    norm      layer norm over the channels: gain `table`, `shift`, `eps`
    shortcut  z + the shortcut of x
    table: (1, O), or (K, O) with a row for each time group.
    """

    kind: str
    table: Tensor | None = None
    shift: Tensor | None = None
    eps: float = 0.0

    def detached(self) -> TailStep:
        """The same with copies of its tensors, without gradients."""
        table, shift = (None if t is None else t.detach().clone() for t in (self.table, self.shift))
        return TailStep(self.kind, table, shift, self.eps)


def leaky(z: Tensor, slope: Tensor) -> Tensor:
    """z * slope where z < 0: PReLU, as the native step has it."""
    found = recorder()
    if found is None:
        return _leaky(z, slope)
    return found.step("leaky", None, (z, slope), lambda: _leaky(z, slope))


def _leaky(z: Tensor, slope: Tensor) -> Tensor:
    """The definition, or torch's PReLU: the same bits where no slope turns the sign of a zero."""
    given = slope.detach()
    plain = native.takes(z) and native.takes(given)  # no tracer's tensors: numbers are looked at
    if plain and bool((torch.isfinite(given) & ~torch.signbit(given)).all()):
        return torch._prelu_kernel(z, slope.expand_as(z) if slope.requires_grad else slope)
    return define_leaky(z, slope)


def define_leaky(z: Tensor, slope: Tensor) -> Tensor:
    """The meaning of `leaky`."""
    return torch.where(z < 0, z * slope, z)


def rows_of(table: Tensor, index: Tensor | None) -> Tensor:
    """The rows of a table (K, C): (C,) where there is one, else (N, C) of an index (N,)."""
    if len(table) == 1:
        return table[0]
    assert index is not None
    # One Gather of a file; indexing becomes ten nodes there.
    return table.index_select(0, index) if native.is_traced() else table[index]


def shaped_rows(table: Tensor, index: Tensor | None, z: Tensor, axis: int) -> Tensor:
    """The rows of a table (K, C) against z, whose channels are axis 1 or the last."""
    if len(table) > 1 and index is not None and native.is_traced():
        # Shaped before it is looked up: a file does that once, and knows the size.
        return shaped(table, z, axis).index_select(0, index)
    return shaped(rows_of(table, index), z, axis)


def shaped(values: Tensor, z: Tensor, axis: int) -> Tensor:
    """(C,) or (N, C) against z, whose channels are axis 1 or the last."""
    ones = [1] * (z.dim() - 2)
    if values.dim() == 1:
        return values.view(-1, *ones) if axis == 1 else values
    n, c = values.shape
    return values.view(n, c, *ones) if axis == 1 else values.view(n, *ones, c)


def sample_scaled(z: Tensor, scale: Tensor, axis: int) -> Tensor:
    """z times a number for each sample (N, 1), or for each of its runs of channels (N, W)."""
    channels = int(z.shape[axis])
    if scale.shape[1] not in (1, channels):
        scale = scale.repeat_interleave(channels // scale.shape[1], 1)
    return z * shaped(scale, z, axis)


def as_pixels(x: Tensor) -> Tensor:
    """Tokens (N, ..., C), or (C,), as pictures of height one, (N, C, 1, places)."""
    n, c = (1 if x.dim() == 1 else x.shape[0]), x.shape[-1]
    return x.reshape(n, -1, c).transpose(1, 2).unsqueeze(2)


def as_tokens(y: Tensor, given: Tensor) -> Tensor:
    """Pictures (N, O, 1, places) as tokens (..., O) of what was given."""
    return y.squeeze(2).transpose(1, 2).reshape(*given.shape[:-1], y.shape[1])


def run_tail(
    z: Tensor, steps: Sequence[TailStep], axis: int, index: Tensor | None, shortcut: Tensor | None
) -> Tensor:
    """z through its tail, differentiable.

    Shapes: z (N, O, ...) for axis 1 or (..., O) for -1; index (N,) int64, the row of tables with
    more than one; shortcut like z. Returns: like z.
    """
    for step in steps:
        if step.kind == "shortcut":
            assert shortcut is not None
            z = z + shortcut
            continue
        table = step.table
        if table is not None:
            table = shaped_rows(table, index, z, axis)
        if step.kind == "norm":
            z = _normed(z, step, axis)
            continue
        assert table is not None
        if step.kind == "add":
            z = z + table
        elif step.kind == "mul":
            z = z * table
        elif step.kind == "leaky":
            z = leaky(z, table)
        else:
            raise ShapeError(
                f"a step of a tail is add, mul, leaky, norm or shortcut, not {step.kind}"
            )
    return z


def _normed(z: Tensor, step: TailStep, axis: int) -> Tensor:
    rows = z.movedim(1, -1) if axis == 1 else z
    gain = None if step.table is None else step.table[0]
    y = layer_norm(rows, gain, step.shift, step.eps)
    return y.movedim(-1, 1) if axis == 1 else y


@torch.library.custom_op("bitcompress::binary_conv2d", mutates_args=())
def binary_conv2d(
    x: Tensor, theta: Tensor, words: Tensor | None, weight: Tensor, weight_shape: Sequence[int],
    scale: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    groups: int, pad_value: int,
) -> Tensor:  # fmt: skip
    """float32(scale * p) of a picture, as one opaque node.

    Shapes: x (N, C, H, W) real; theta (1, C) or (N, C); words None or (N, C / 32 rounded up);
            weight (bytes,) uint8, one bit each of weight_shape (O, C/groups, KH, KW); scale (O,).
    Returns: (N, O, OH, OW) float32.
    Raises: ShapeError if C differs or the kernel does not fit.
    """
    if x.dim() != 4 or x.shape[1] != weight_shape[1] * groups:
        raise ShapeError(
            f"input is {tuple(x.shape)}, the binary convolution takes "
            f"(N, {weight_shape[1] * groups}, H, W)"
        )
    look = Look(
        (stride[0], stride[1]), (padding[0], padding[1]), (dilation[0], dilation[1]), groups,
        pad_value,
    )  # fmt: skip
    bits = bits_of(x, theta[:, :, None, None])
    w = unpack(weight, 1, list(weight_shape))
    y = scaled_sums(bits, w, scale, look) if words is None else (
        word_sums(bits, w, scale, words, look)
    )  # fmt: skip
    return y.contiguous(memory_format=ops.memory_format_like(x))


@binary_conv2d.register_fake
def _binary_conv2d_shape(
    x: Tensor, theta: Tensor, words: Tensor | None, weight: Tensor, weight_shape: Sequence[int],
    scale: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    groups: int, pad_value: int,
) -> Tensor:  # fmt: skip
    size = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight_shape[2 + i] - 1) - 1) // stride[i]
        + 1
        for i in range(2)
    ]
    out = x.new_empty((x.shape[0], weight_shape[0], *size), dtype=torch.float32)
    return out.contiguous(memory_format=ops.memory_format_like(x))
