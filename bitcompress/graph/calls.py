"""How each kind of function call runs when its products are replaced by modules.

A replaced product is any callable (a, b) -> a b on matrices; the code here brings the arguments of
matmul, einsum and scaled_dot_product_attention into that form and the result back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bitcompress.graph.defer import Deferred

Product = Callable[[Tensor, Tensor], Tensor]


def run_matmul(
    product: Product, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor:
    """torch.matmul, bmm, mm or @, whichever way the operands were given."""
    names = ("input", "self", "other", "mat2")
    a, b = [*args, *(kwargs[n] for n in names if n in kwargs)][:2]
    if func is Tensor.__rmatmul__:
        a, b = b, a
    return product(a, b)


def run_attention(
    products: Mapping[str, Product],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """scaled_dot_product_attention written out, its two products replaced.

    The scale goes onto the query before the product, as the papers quantize it.
    Shapes: query (..., L, E), key (..., S, E), value (..., S, V). Returns: (..., L, V).
    """
    if enable_gqa:
        repeat = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeat, -3), value.repeat_interleave(repeat, -3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    logits = products.get("qk", torch.matmul)(query * factor, key.transpose(-2, -1))
    av = products.get("av", torch.matmul)
    if isinstance(logits, Deferred):
        if not is_causal and attn_mask is None and dropout_p == 0:
            return av(logits.owner.follow(torch.softmax, (logits, -1), {}), value)
        logits = logits.numbers("a mask or dropout of scaled_dot_product_attention")
    if is_causal:
        ones = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(~ones.tril(), float("-inf"))
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            logits = logits.masked_fill(~attn_mask, float("-inf"))
        else:
            logits = logits + attn_mask
    weights = logits.softmax(-1)
    if attn_mask is not None:
        # A row that may attend to nothing gives zeros, as torch has it.
        weights = weights.masked_fill((logits == float("-inf")).all(-1, keepdim=True), 0.0)
    weights = F.dropout(weights, dropout_p, training=dropout_p > 0)
    return av(weights, value)


def run_einsum(product: Product, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """A two-operand einsum as one batched matrix product.

    Raises: ValueError if `einsum_refusal` has something against the equation.
    """
    equation, a, b = _einsum_parts(args)
    refusal = einsum_refusal(equation, [tuple(a.shape), tuple(b.shape)])
    if refusal:
        raise ValueError(f"einsum {equation!r}: {refusal}")
    left, right, out = _terms(equation)
    sizes = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))
    batch = [n for n in out if n in left and n in right]
    rows = [n for n in out if n in left and n not in right]
    columns = [n for n in out if n in right and n not in left]
    summed = [n for n in left if n not in out]
    a = a.permute([left.index(n) for n in (*batch, *rows, *summed)])
    b = b.permute([right.index(n) for n in (*batch, *summed, *columns)])

    def size(names: list[str]) -> int:
        return math.prod(sizes[n] for n in names)

    lead = [sizes[n] for n in batch]
    y = product(
        a.reshape(*lead, size(rows), size(summed)), b.reshape(*lead, size(summed), size(columns))
    )
    order = [*batch, *rows, *columns]
    return y.reshape([sizes[n] for n in order]).permute([order.index(n) for n in out])


def einsum_refusal(equation: str, shapes: Sequence[tuple[int, ...]]) -> str:
    """Why an einsum is not one matrix product; empty where it is."""
    if len(shapes) != 2 or "," not in equation:
        return "einsum of other than two operands"
    if "." in equation:
        return "einsum with an ellipsis"
    left, right, out = _terms(equation)
    if any(len(set(term)) != len(term) for term in (left, right, out)):
        return "einsum with a repeated index (a diagonal)"
    if len(left) != len(shapes[0]) or len(right) != len(shapes[1]):
        return "einsum equation and shapes differ"
    sizes: dict[str, int] = {}
    for name, size in zip(left + right, (*shapes[0], *shapes[1]), strict=True):
        if sizes.setdefault(name, size) != size:
            return "einsum whose operands differ in the size of an index"
    if any((n in left) != (n in right) and n not in out for n in {*left, *right}):
        return "einsum that sums one operand alone"
    if not any(n in right and n not in out for n in left):
        return "einsum without a sum: an outer or elementwise product"
    return ""


def _einsum_parts(args: Sequence[Any]) -> tuple[str, Tensor, Tensor]:
    operands = args[1:] if len(args) > 2 else args[1]
    return str(args[0]), operands[0], operands[1]


def _terms(equation: str) -> tuple[str, str, str]:
    inputs, arrow, out = equation.replace(" ", "").partition("->")
    left, _, right = inputs.partition(",")
    if not arrow:
        names = sorted({*left, *right})
        out = "".join(n for n in names if (left + right).count(n) == 1)
    return left, right, out
