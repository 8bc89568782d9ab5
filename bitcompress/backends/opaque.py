"""Packed operators as one opaque node each, and what writes a run down with them.

Linear and convolution are opaque already (packed/ops.py). The others are whole operators of a file
only: an attention with its terms, a product whose grids follow the length of its sum, and the
functions between layers. `writing_down` sends a run through them; each has its meaning in plain
calls of packed/, so that an exported program still runs, and every node can be checked alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.errors import NotPackable
from bitcompress.packed.attention import AttendSpec, ProductGrids, Term, attend, multiply
from bitcompress.packed.binary import define_leaky
from bitcompress.packed.gelu import gelu
from bitcompress.packed.group_norm import group_norm
from bitcompress.packed.norm import layer_norm
from bitcompress.packed.pixels import means
from bitcompress.packed.sigmoid import sigmoid, silu
from bitcompress.packed.tape import set_recorder
from bitcompress.packed.unit import unit
from bitcompress.quant.length import length_factor


def product_grids(
    parts: Sequence[Tensor], bits: Sequence[int], per_row: bool, per_length: Sequence[int],
    shortest: Sequence[int], length: int,
) -> ProductGrids:  # fmt: skip
    """The grids of a product (scale, offset, scale, offset) for a length."""
    made = []
    for i in range(2):
        scale, offset = (part.view(-1, 1, 1) for part in parts[2 * i : 2 * i + 2])
        factor = length_factor(
            length, (scale, offset), (1 << bits[i]) - 1,
            per_length=bool(per_length[i]), shortest=shortest[i],
        )  # fmt: skip
        one = isinstance(factor, float) and factor == 1
        made.append((scale, offset) if one else (scale * factor, offset * factor))
    return ProductGrids(made[0], made[1], (bits[0], bits[1]), per_row)


@torch.library.custom_op("bitcompress::product", mutates_args=())
def product(
    a: Tensor, b: Tensor, grids: Sequence[Tensor], bits: Sequence[int], per_row: bool,
    per_length: Sequence[int], shortest: Sequence[int],
) -> Tensor:  # fmt: skip
    """a b on codes. Shapes: a (..., M, K), b (..., K, N), grids 1 or one a head."""
    return multiply(a, b, product_grids(grids, bits, per_row, per_length, shortest, a.shape[-1]))


@product.register_fake
def _product_shape(a: Tensor, b: Tensor, *_: object) -> Tensor:
    return a.new_empty((*a.shape[:-1], b.shape[-1]))


@torch.library.custom_op("bitcompress::attention", mutates_args=())
def attention(
    q: Tensor, k: Tensor, v: Tensor, grids: Sequence[Tensor], bits: Sequence[int], per_row: bool,
    per_length: Sequence[int], shortest: Sequence[int], terms: Sequence[Tensor],
    multiplies: Sequence[int], repeats: Sequence[int],
) -> Tensor:  # fmt: skip
    """softmax(terms(q k)) v on codes; matrix b has entry (b / repeat) mod T of a term (T, M, N)."""
    qk = product_grids(grids[:4], bits[:2], False, per_length[:2], shortest[:2], q.shape[-1])
    av = product_grids(grids[4:], bits[2:], per_row, per_length[2:], shortest[2:], k.shape[-1])
    batch, sizes = math.prod(q.shape[:-2]), (q.shape[-2], k.shape[-1])
    made = [
        Term(t[:, None], bool(times), (batch // (len(t) * repeat), len(t), repeat, *sizes))
        for t, times, repeat in zip(terms, multiplies, repeats, strict=True)
    ]
    return attend(q, k, v, made, qk, av)


@attention.register_fake
def _attention_shape(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
    return q.new_empty((*q.shape[:-1], v.shape[-1]))


@torch.library.custom_op("bitcompress::layer_norm", mutates_args=())
def norm(x: Tensor, gain: Tensor | None, shift: Tensor | None, eps: float) -> Tensor:
    """Layer norm by packed/norm.py."""
    return layer_norm(x, gain, shift, eps)


@torch.library.custom_op("bitcompress::gelu", mutates_args=())
def gelu_node(x: Tensor, tanh: bool) -> Tensor:
    """GELU by packed/gelu.py."""
    return gelu(x.contiguous(), "tanh" if tanh else "none")


@torch.library.custom_op("bitcompress::sigmoid", mutates_args=())
def sigmoid_node(x: Tensor) -> Tensor:
    """Sigmoid by packed/sigmoid.py."""
    return sigmoid(x.contiguous())


@torch.library.custom_op("bitcompress::silu", mutates_args=())
def silu_node(x: Tensor) -> Tensor:
    """SiLU by packed/sigmoid.py."""
    return silu(x.contiguous())


@torch.library.custom_op("bitcompress::unit", mutates_args=())
def unit_node(x: Tensor, axis: int, least: float) -> Tensor:
    """x divided by its length along an axis, by packed/unit.py."""
    return unit(x.contiguous(), axis, least)


@torch.library.custom_op("bitcompress::group_norm", mutates_args=())
def group_norm_node(
    x: Tensor, groups: int, gain: Tensor | None, shift: Tensor | None, eps: float
) -> Tensor:
    """Group norm by packed/group_norm.py."""
    return group_norm(x, groups, gain, shift, eps).contiguous()


@torch.library.custom_op("bitcompress::pixel_mean", mutates_args=())
def pixel_mean_node(x: Tensor, centre: Tensor | None) -> Tensor:
    """Means over pixels, or of |x - centre|, by packed/pixels.py."""
    return means("pixel_mean", x) if centre is None else means("pixel_deviation", x, centre)


@pixel_mean_node.register_fake
def _channels_alone(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape[:2])


def _same_shape(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


for _node in (norm, gelu_node, sigmoid_node, silu_node, unit_node, group_norm_node):
    _node.register_fake(_same_shape)


def _flat_grid(part: Tensor) -> Tensor:
    """A grid that broadcasts against (..., heads, 1, 1) as a vector."""
    heads = part.shape[-3] if part.dim() > 2 else 1
    if part.numel() != heads:
        raise NotPackable(f"a grid of shape {tuple(part.shape)} is neither one nor one a head")
    return part.reshape(-1)


def _parts(*grids: ProductGrids) -> list[Tensor]:
    return [_flat_grid(part) for grid in grids for pair in (grid.a, grid.b) for part in pair]


def _rules(*grids: ProductGrids) -> tuple[list[int], list[int]]:
    rules = [grid.rule for grid in grids]
    assert all(rule is not None for rule in rules)
    per_length = [int(part) for rule in rules if rule for part in rule.per_length]
    return per_length, [part for rule in rules if rule for part in rule.shortest]


def flat_term(tensor: Tensor, view: Sequence[Any]) -> tuple[Tensor, int]:
    """A term as (T, M or 1, N or 1) and how often each entry repeats.

    `view` (..., M, N) is the view of the logits that the tensor broadcasts against.
    """
    lead = [1] * (len(view) - tensor.dim()) + list(tensor.shape[:-2])
    lead, own = lead[: len(view) - 2], tensor.shape[-2:] if tensor.dim() > 1 else (1, *tensor.shape)
    own = (1,) * (2 - len(own)) + tuple(own)
    spread = [isinstance(size, int) and size == 1 for size in lead]
    repeat, last = 1, len(lead)
    while last and spread[last - 1] and isinstance(view[last - 1], int):
        last -= 1
        repeat *= int(view[last])
    first = 0
    while first < last and spread[first]:
        first += 1
    if first == last:
        return tensor.reshape(1, *own), 1
    whole = tensor.reshape(*lead, *own)[(0,) * first]
    whole = whole.expand(*view[first:last], *whole.shape[last - first :])
    return whole.reshape(-1, *own), repeat


class _Writer:
    """The recorder that makes nodes of steps (packed/tape.py)."""

    def step(
        self, kind: str, target: Any, inputs: Sequence[Tensor], compute: Callable[[], Tensor]
    ) -> Tensor:
        """The step as one opaque node; what has none runs as plain operators."""
        node = NODES.get(kind)
        if node is not None:
            return node(target, *inputs)
        before = set_recorder(None)
        try:
            with native.traced(False):
                return compute()
        finally:
            set_recorder(before)


def _write_product(grids: ProductGrids, a: Tensor, b: Tensor) -> Tensor:
    per_length, shortest = _rules(grids)
    y: Tensor = product(a, b, _parts(grids), list(grids.bits), grids.per_row, per_length, shortest)
    return y


def _write_attention(spec: AttendSpec, q: Tensor, k: Tensor, v: Tensor, *terms: Tensor) -> Tensor:
    flat = [flat_term(term, view) for term, view in zip(terms, spec.views, strict=True)]
    y: Tensor = attention(
        q, k, v, _parts(spec.qk, spec.av), [*spec.qk.bits, *spec.av.bits], spec.av.per_row,
        *_rules(spec.qk, spec.av), [term for term, _ in flat],
        [int(times) for times in spec.multiplies], [repeat for _, repeat in flat],
    )  # fmt: skip
    return y


def _write_norm(target: tuple[bool, bool, float], x: Tensor, *affine: Tensor) -> Tensor:
    parts = list(affine)
    gain, shift = (parts.pop(0) if there else None for there in target[:2])
    y: Tensor = norm(x, gain, shift, target[2])
    return y


def _write_group_norm(target: tuple[int, bool, bool, float], x: Tensor, *affine: Tensor) -> Tensor:
    parts = list(affine)
    gain, shift = (parts.pop(0) if there else None for there in target[1:3])
    y: Tensor = group_norm_node(x, target[0], gain, shift, target[3])
    return y


def _write_leaky(z: Tensor, slope: Tensor) -> Tensor:
    """PRelu, whose zeros may have another sign; with slopes of each sample as its definition."""
    if slope.dim() == z.dim() or z.dim() != 4:  # tokens, whose channels lie last
        return define_leaky(z, slope)
    return torch._prelu_kernel(z, slope)


NODES: dict[str, Callable[..., Tensor]] = {
    "multiply": _write_product,
    "attend": _write_attention,
    "norm": _write_norm,
    "gelu": lambda _, x: gelu_node(x, False),
    "gelu_tanh": lambda _, x: gelu_node(x, True),
    "sigmoid": lambda _, x: sigmoid_node(x),
    "silu": lambda _, x: silu_node(x),
    "unit": lambda target, x: unit_node(x, *target),
    "pixel_mean": lambda _, x: pixel_mean_node(x, None),
    "pixel_deviation": lambda _, x, centre: pixel_mean_node(x, centre),
    "group_norm": _write_group_norm,
    "leaky": lambda _, z, slope: _write_leaky(z, slope),
}
"""Which node a step becomes, by the kind that packed/ gives it."""


@contextlib.contextmanager
def writing_down() -> Iterator[None]:
    """While a packed model runs on tensors without numbers, to be written down as a graph."""
    before = set_recorder(_Writer())
    try:
        with native.traced():
            yield
    finally:
        set_recorder(before)
