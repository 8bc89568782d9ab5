"""Products that wait: logits are computed when something reads them; attention reads them whole.

While a rewritten model runs, a product on codes whose result may be the logits of an attention is
not computed at once. It is handed on as a `Deferred`: a tensor with a shape and no numbers. What
follows in the model's own code (a bias, a mask, views, softmax) is noted on it, and the second
product then runs everything in one pass that never writes the logits to memory. Any other use
computes the numbers first, and `Fusions.refusals` says which use that was. So no pattern is
searched for, and Python control flow, hooks and every input size work as before.

The rule is a table: `FOLLOW` lists the functions that a Deferred goes through, `METADATA` those
that look at its shape alone.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bitcompress import native
from bitcompress.packed.attention import Term

FEWEST_LOGITS = 1024
"""A matrix of logits below this size is computed at once: there is nothing to save."""


class AttentionProduct(Protocol):
    """A product of two activations that can be part of an attention."""

    defers: bool
    """Whether it computes on codes, or in float64 on what they stand for; training does not."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor: ...
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, terms: Sequence[Term], qk: Any
    ) -> Tensor | None:
        """The attention in one pass, this product being the second; None where it cannot."""


@dataclass(frozen=True)
class Work:
    """What a Deferred stands for: softmax or not, of the terms on q k."""

    q: Tensor
    k: Tensor
    product: AttentionProduct
    terms: tuple[Term, ...] = ()
    weights: bool = False
    """Whether the softmax has been taken."""

    def compute(self, shape: Sequence[int]) -> Tensor:
        """The numbers, one operation after the other."""
        x = self.product(self.q, self.k)
        for term in self.terms:
            x = term.apply(x)
        x = x.reshape(tuple(shape))
        return x.softmax(-1) if self.weights else x


class Deferred(Tensor):
    """A tensor whose numbers are computed when they are first read."""

    work: Work
    value: Tensor | None
    owner: Deferrals

    @staticmethod
    def __new__(cls, shape: Sequence[int], work: Work, owner: Deferrals) -> Deferred:
        made = Tensor._make_wrapper_subclass(
            cls, tuple(shape), dtype=work.q.dtype, device=work.q.device
        )
        made.work, made.value, made.owner = work, None, owner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        """The numbers, like any tensor."""
        return repr(self.numbers("repr"))

    def numbers(self, reader: str) -> Tensor:
        """The plain tensor; `reader` is what asks for it."""
        if self.value is None:
            with torch._C.DisableTorchFunctionSubclass():
                shape = tuple(self.shape)
            self.owner.refused(reader)
            self.value = self.work.compute(shape)
        return self.value

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Any function: its shape if that is all, otherwise on the numbers."""
        if func in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        return func(*computed(args, _name(func)), **computed(kwargs or {}, _name(func)))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """What reaches the operators themselves reads the numbers."""
        return func(*computed(args, _name(func)), **computed(kwargs or {}, _name(func)))


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", func))


def computed(value: Any, reader: str) -> Any:
    """The same arguments or results with every Deferred replaced by its numbers."""
    if isinstance(value, Deferred):
        return value.numbers(reader)
    if type(value) in (tuple, list):
        return type(value)(computed(part, reader) for part in value)
    if type(value) is dict:
        return {key: computed(part, reader) for key, part in value.items()}
    return value


@dataclass
class Fusions:
    """What became of the products of one run that could wait."""

    fused: int = 0
    """Attentions that ran in one pass."""
    refusals: dict[str, int] = field(default_factory=dict)
    """How often which function asked for numbers."""


@dataclass
class Deferrals:
    """The deferred tensors of one run."""

    pending: list[weakref.ref[Deferred]] = field(default_factory=list)
    """Those that may still be waiting; empty where none is, which every function call asks."""
    fusions: Fusions = field(default_factory=Fusions)

    def refused(self, reader: str) -> None:
        """Count a use that needs the numbers."""
        counts = self.fusions.refusals
        counts[reader] = counts.get(reader, 0) + 1

    def defer(self, product: Any, a: Tensor, b: Tensor) -> Tensor:
        """The product, now or later."""
        small = a.dim() < 3 or (
            not native.is_traced() and a.shape[-2] * b.shape[-1] < FEWEST_LOGITS
        )
        if small or a.shape[:-2] != b.shape[:-2] or not waits(product, a, b):
            return cast(Tensor, product(a, b))
        return self._put((*a.shape[:-1], b.shape[-1]), Work(a, b, product))

    def _put(self, shape: Sequence[int], work: Work) -> Deferred:
        made = Deferred(shape, work, self)
        self.pending.append(weakref.ref(made))
        return made

    def attend(self, product: Any, weights: Deferred, v: Tensor) -> Tensor:
        """The second product of an attention, in one pass where that can be."""
        work, shape = weights.work, tuple(_shape(weights))
        same = shape[:-2] == v.shape[:-2] == work.q.shape[:-2] and shape[-1] == v.shape[-2]
        if work.weights and weights.value is None and same and waits(product, v):
            y = product.attend(work.q, work.k, v, work.terms, work.product)
            if y is not None:
                self.fusions.fused += 1
                self.pending = [kept for kept in self.pending if _is_waiting(kept())]
                return cast(Tensor, y)
        return cast(Tensor, product(weights.numbers("another product"), v))

    def follow(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What a function makes of a Deferred: another one, or NotImplemented."""
        step = FOLLOW.get(func)
        return NotImplemented if step is None else step(self, *args, **kwargs)

    def then(self, x: Deferred, shape: Sequence[int], **changes: Any) -> Deferred:
        """x with something more noted on it."""
        return self._put(shape, replace(x.work, **changes))

    def flush(self, reader: str) -> None:
        """Compute all that waits: what it reads may be about to change."""
        pending, self.pending = self.pending, []
        for kept in pending:
            waiting = kept()
            if waiting is not None:
                waiting.numbers(reader)


def _is_waiting(x: Deferred | None) -> bool:
    return x is not None and x.value is None


def waits(product: Any, *operands: Tensor) -> bool:
    """Whether a product may be part of a fused attention on these operands."""
    return (
        getattr(product, "defers", False)
        and not product._forward_hooks
        and not product._forward_pre_hooks
        and all(native.takes(x) for x in operands)
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in operands))
    )


def _shape(x: Tensor) -> torch.Size:
    with torch._C.DisableTorchFunctionSubclass():
        return x.shape


def _term(multiply: bool) -> Callable[..., Any]:
    def step(owner: Deferrals, x: Any, y: Any, **kwargs: Any) -> Any:
        x, y = (x, y) if isinstance(x, Deferred) else (y, x)
        if kwargs or isinstance(y, Deferred) or x.work.weights or x.value is not None:
            return NotImplemented
        if isinstance(y, int | float) and not isinstance(y, bool):
            y = torch.tensor(float(y))
        if not isinstance(y, Tensor) or not native.takes(y):
            return NotImplemented
        shape = _shape(x)
        if y.dim() > len(shape) or torch.broadcast_shapes(shape, y.shape) != shape:  # type: ignore[no-untyped-call]
            return NotImplemented
        if torch.is_grad_enabled() and y.requires_grad:
            return NotImplemented
        return owner.then(x, shape, terms=(*x.work.terms, Term(y, multiply, tuple(shape))))

    return step


def _view(owner: Deferrals, x: Any, *sizes: Any, **kwargs: Any) -> Any:
    """Another view whose last two axes are those of queries and keys."""
    wanted = tuple(sizes[0]) if sizes and isinstance(sizes[0], list | tuple) else sizes
    if kwargs or not isinstance(x, Deferred) or x.value is not None:
        return NotImplemented
    if not all(isinstance(size, int | torch.SymInt) for size in wanted):
        return NotImplemented
    old = _shape(x)
    if wanted.count(-1) == 1:
        known = -1
        for size in wanted:
            known *= size
        if known <= 0 or math.prod(old) % known:
            return NotImplemented
        wanted = tuple(math.prod(old) // known if size == -1 else size for size in wanted)
    if len(wanted) < 3 or not _same((math.prod(wanted), *wanted[-2:]), (math.prod(old), *old[-2:])):
        return NotImplemented
    return owner.then(x, wanted)


def _same(ones: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether sizes are equal; free sizes of an export are only where they are equal for all."""
    if all(type(size) is int for size in (*ones, *others)):
        return tuple(ones) == tuple(others)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return all(statically_known_true(a == b) for a, b in zip(ones, others, strict=True))


def _softmax(owner: Deferrals, x: Any, dim: Any = None, *rest: Any, **kwargs: Any) -> Any:
    if not isinstance(x, Deferred) or x.work.weights or x.value is not None:
        return NotImplemented
    kwargs.pop("_stacklevel", None)
    if any(isinstance(part, torch.dtype) for part in (*rest, *kwargs.values())):
        return NotImplemented
    shape = _shape(x)
    return owner.then(x, shape, weights=True) if dim in (-1, len(shape) - 1) else NotImplemented


def _dropout(
    owner: Deferrals, x: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Out of training, dropout is the identity."""
    return x if isinstance(x, Deferred) and not training and not inplace else NotImplemented


FOLLOW: dict[Any, Callable[..., Any]] = {
    torch.add: _term(False),
    Tensor.add: _term(False),
    Tensor.__add__: _term(False),
    Tensor.__radd__: _term(False),
    torch.mul: _term(True),
    Tensor.mul: _term(True),
    Tensor.__mul__: _term(True),
    Tensor.__rmul__: _term(True),
    Tensor.view: _view,
    Tensor.reshape: _view,
    torch.reshape: _view,
    torch.softmax: _softmax,
    Tensor.softmax: _softmax,
    F.softmax: _softmax,
    F.dropout: _dropout,
}
"""Functions that a Deferred goes through, and how."""

_GETTERS = ("shape", "dtype", "device", "requires_grad", "is_cuda", "ndim", "layout")
METADATA = frozenset(
    {getattr(Tensor, name).__get__ for name in _GETTERS}
    | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__}
)
"""Functions that look at the shape alone."""
