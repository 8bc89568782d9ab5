"""Steps on rows of channels, before the cut of a packed layer and after its reading: the meaning.

Each is float32 with one rounding an operation. The native kernels do the same inside one pass of a
layer (csrc/cpu/steps.cc); `bind` makes a chain ready for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitcompress.errors import ShapeError, UsageError
from bitcompress.packed.gelu import gelu
from bitcompress.packed.norm import layer_norm
from bitcompress.packed.sigmoid import sigmoid, silu
from bitcompress.quant.spec import codes_of

NUMBERS = {
    "add": 1, "mul": 2, "sub": 3, "relu": 4, "leaky": 5, "gelu": 6, "sigmoid": 7, "norm": 8,
    "store": 9, "gelu_tanh": 10, "silu": 11, "prelu": 12,
    "mul_add": 13,
}  # fmt: skip
"""The kinds as csrc/include/bitcompress/bits.h numbers them."""

OPERAND = ("add", "mul", "sub", "leaky", "prelu", "mul_add")


@dataclass(frozen=True)
class Step:
    """One step of a chain on rows x (..., C), channels last.

    kind     meaning
    add      x + operand; likewise mul, sub
    relu     0 where x < 0
    leaky    x * operand where x < 0
    prelu    x where x > 0, else x * operand, as torch has it: a zero takes the sign of its product
    mul_add  x + operand * shift, `shift` (C,)
    gelu, gelu_tanh, sigmoid, silu
    norm     layer norm over the channels, gain `operand` (C,), `shift` (C,), each or None, `eps`
    store    `out` is given the rows as they are here

    An operand is a number or broadcasts against the rows: one a channel, or (N, 1, ..., C) for each
    picture of a batch, among others.
    """

    kind: str
    operand: Tensor | float | None = None
    shift: Tensor | None = None
    eps: float = 0.0
    out: Tensor | None = None

    def __post_init__(self) -> None:
        if self.kind not in NUMBERS:
            raise UsageError(f"a step is one of {', '.join(NUMBERS)}, not {self.kind!r}")
        if (self.kind in OPERAND) != (self.operand is not None) and self.kind != "norm":
            raise UsageError(f"the step {self.kind} takes {'an' if self.operand is None else 'no'} "
                             "operand")  # fmt: skip
        if self.kind == "mul_add" and self.shift is None:
            raise UsageError("the step mul_add takes a `shift`, what the operand is multiplied by")
        if (self.kind == "store") != (self.out is not None):
            raise UsageError("a step has `out` if it is `store`, and only then")


def _leaky(x: Tensor, step: Step) -> Tensor:
    return torch.where(x < 0, x * _number(step), x)


def _norm(x: Tensor, step: Step) -> Tensor:
    assert step.operand is None or isinstance(step.operand, Tensor)
    return layer_norm(x, step.operand, step.shift, step.eps)


def _mul_add(x: Tensor, step: Step) -> Tensor:
    assert step.shift is not None
    return x + _number(step) * step.shift


def _number(step: Step) -> Tensor:
    """The operand as float32."""
    return torch.as_tensor(step.operand, dtype=torch.float32)


def _store(x: Tensor, step: Step) -> Tensor:
    assert step.out is not None
    step.out.copy_(x)
    return x


DEFINITIONS: dict[str, Callable[[Tensor, Step], Tensor]] = {
    "add": lambda x, step: x + _number(step),
    "mul": lambda x, step: x * _number(step),
    "sub": lambda x, step: x - _number(step),
    "relu": lambda x, step: torch.where(x < 0, torch.zeros(()), x),
    "leaky": _leaky,
    "prelu": lambda x, step: torch.where(x > 0, x, x * _number(step)),
    "mul_add": _mul_add,
    "gelu": lambda x, step: gelu(x),
    "gelu_tanh": lambda x, step: gelu(x, "tanh"),
    "sigmoid": lambda x, step: sigmoid(x),
    "silu": lambda x, step: silu(x),
    "norm": _norm,
    "store": _store,
}


def apply(steps: Sequence[Step], x: Tensor) -> Tensor:
    """x (..., C) float32 through a chain. Returns: (..., C); the outs of `store` are filled."""
    for step in steps:
        x = DEFINITIONS[step.kind](x, step)
    return x


def to_codes(x: Tensor, scale: Tensor, offset: Tensor, top: Tensor) -> Tensor:
    """The codes of rows x (..., C) on grids (1,) or (C,), as whoever reads them would cut."""
    return torch.minimum(codes_of(x, scale, offset, 0x7FFFFFFF), top).to(torch.uint8)


def shuffled(x: Tensor, r: int) -> Tensor:
    """Pixel shuffle of pixels (N, H, W, K r r). Returns: (N, H r, W r, K)."""
    n, h, w, c = x.shape
    split = x.reshape(n, h, w, c // (r * r), r, r)
    return split.permute(0, 1, 4, 2, 5, 3).reshape(n, h * r, w * r, c // (r * r))


def bind(kernels: Any, steps: Sequence[Step], shape: Sequence[int]) -> Any:
    """The native chain of steps on rows of `shape` (..., C). It holds and reads their tensors.

    Raises: ShapeError where an operand does not lie as rows and channels do.
    """
    return kernels.Chain([_parts(step, tuple(shape)) for step in steps])


Parts = tuple[int, float, Tensor | None, Tensor | None, Tensor | None, int]


def _parts(step: Step, shape: tuple[int, ...]) -> Parts:
    number = NUMBERS[step.kind]
    if step.kind == "norm":
        gain = step.operand
        assert gain is None or isinstance(gain, Tensor)
        return number, step.eps, _plain(gain), _plain(step.shift), None, 1
    if step.kind == "store":
        assert step.out is not None
        return number, 0.0, None, None, _rows(step.out, shape), 1
    if isinstance(step.operand, Tensor):
        shift, samples = _plain(step.shift), _samples(step.operand, shape)
        if samples is not None:
            each = torch.Size(shape[1:-1]).numel()
            return number, 0.0, samples, shift, None, each
        return number, 0.0, _rows(step.operand, shape), shift, None, 1
    return number, float(step.operand or 0.0), None, _plain(step.shift), None, 1


def _plain(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().reshape(-1)


def _samples(t: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """t (N, 1, ..., C or 1) as (N, C or 1) for rows (N, ..., C) of more pictures than one."""
    alone = t.dim() == len(shape) > 2 and all(size == 1 for size in t.shape[1:-1])
    if not alone or t.shape[0] != shape[0] or shape[0] == 1 or t.shape[-1] not in (1, shape[-1]):
        return None
    return t.detach()[(slice(None),) + (0,) * (t.dim() - 2)]


def _rows(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    """t that broadcasts against `shape` (..., C), as (rows or 1, C or 1) of the same memory."""
    t = t.detach()
    fits = t.dim() <= len(shape) and all(
        size in (1, wanted) for size, wanted in zip(t.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise ShapeError(f"an operand of shape {tuple(t.shape)} does not fit rows {shape}")
    t = t[(None,) * (len(shape) - t.dim())]
    if all(size == 1 for size in t.shape[:-1]):
        return t[(0,) * (len(shape) - 1)][None]
    try:
        return t.expand(*shape[:-1], t.shape[-1]).view(-1, t.shape[-1])
    except RuntimeError:
        raise ShapeError(
            f"the rows of an operand {tuple(t.shape)} do not lie at one distance from each other"
        ) from None
