"""Operators that change a tensor in place, as operators that make another one.

A list of steps has values that do not change. So x.add_(y) is written down as x = x + y, which
gives the same numbers in the same layout; record.py sees to who else looks at the memory of x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from bitcompress.program.ir import Value


def written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among its arguments that an operator changes."""
    found: list[Any] = []
    for place, wanted in enumerate(func._schema.arguments):
        if wanted.alias_info is not None and wanted.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(wanted.name)
            found += given if isinstance(given, list | tuple) else [given]
    return [x for x in found if isinstance(x, Tensor)]


def another(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The operator that makes what `func` makes of its first argument, and leaves that alone.

    It is called with the same arguments. None where `func` changes another one.
    """
    x = args[0] if args else None
    if not isinstance(x, Tensor) or [x] != [t for t in written(func, args, kwargs) if t is x]:
        return None
    if not func._schema.name.endswith("_"):
        return None
    packet = getattr(torch.ops.aten, func._schema.name.split("::")[1][:-1], None)
    plain = getattr(packet, func._overloadname, None)
    if plain is not None and _alike(plain, x, args, kwargs):
        return plain
    return partial(on_copy, func)


def on_copy(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """What an operator makes of a copy of x that lies in memory as x does."""
    copy = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    return func(copy.copy_(x), *args, **kwargs)


def _alike(plain: Any, x: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the other operator gives the type and layout of x, as far as torch can tell."""
    y = on_meta(plain, args, kwargs)
    return y is not None and (y.shape, y.stride(), y.dtype) == (x.shape, x.stride(), x.dtype)


def on_meta(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What an operator gives, but for its numbers; None where torch cannot tell."""

    def shape_alone(t: Tensor) -> Tensor:
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")

    def of_value(v: Value) -> Tensor:
        return torch.empty_strided(v.shape, v.stride, dtype=v.dtype, device="meta")

    try:
        with _disable_current_modes():
            given = tree_map_only(Tensor, shape_alone, (list(args), dict(kwargs)))
            given = tree_map_only(Value, of_value, given)
            y = func(*given[0], **given[1])
    except (RuntimeError, NotImplementedError, TypeError):
        return None
    return y if isinstance(y, Tensor) else None
