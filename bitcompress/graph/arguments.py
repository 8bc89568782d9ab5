"""What stands in the arguments of a recorded call: operands in order, flags, and what is odd."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import resolve_name


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples, dicts and dataclasses, in order."""
    found: list[Tensor] = []
    _collect(value, found, set())
    return found


def _collect(value: Any, found: list[Tensor], inside: set[int]) -> None:
    """Append the tensors in a value; `inside` are the containers around it, which may be cyclic."""
    if isinstance(value, Tensor):
        found.append(value)
        return
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, list | tuple):
        parts = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type | nn.Module):
        parts = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    if parts and id(value) not in inside:
        for part in parts:
            _collect(part, found, inside | {id(value)})


def function_name(func: Any) -> str:
    """The plain name of a function: `matmul` of torch.matmul and of aten.matmul.default."""
    name = getattr(func, "__name__", None) or resolve_name(func) or repr(func)
    return str(name).split(".")[0] if "." in str(name) else str(name)


OPERANDS = ("input", "self", "query", "other", "mat2", "key", "weight", "value", "bias")
"""Names by which operands are given as keywords, first ones first."""


def operands_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that a call multiplies, in the order (a, b), (q, k, v) or (x, weight, bias)."""
    named = [kwargs[name] for name in OPERANDS if name in kwargs]
    rest = [v for k, v in kwargs.items() if k not in OPERANDS and k != "out"]
    tensors = tensors_of((list(args), named, rest))
    if func is Tensor.__rmatmul__:
        return tensors[1::-1]
    return tensors


def oddness(operands: Sequence[Tensor]) -> str:
    """Why operands have no grids: they are no dense float32 numbers; empty where they are."""
    for tensor in operands:
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return "runs inside torch.func (vmap, grad)"
        if tensor.layout != torch.strided:
            return f"an operand is {str(tensor.layout).removeprefix('torch.')}"
    for tensor in operands[:2]:
        if tensor.dtype != torch.float32:
            return f"an operand is {type_name(tensor)}{TO_FLOAT * tensor.is_floating_point()}"
    return ""


TO_FLOAT = ": codes stand for float32 numbers, convert the model with .float()"


def type_name(tensor: Tensor) -> str:
    """The type of a tensor's numbers, as torch names it without its own name."""
    return str(tensor.dtype).removeprefix("torch.")


def versions_of(value: Any) -> list[tuple[Tensor, int]]:
    """The tensors in a value with the number of writes each has seen."""
    return [(t, t._version) for t in tensors_of(value) if not t.is_inference()]


def detail_of(kind: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are no tensors: the equation, stride and padding, attention flags."""
    plain = [a for a in args if not isinstance(a, Tensor)]
    detail: dict[str, Any] = {k: v for k, v in kwargs.items() if not isinstance(v, Tensor)}
    if kind == "einsum":
        detail["equation"] = plain[0] if plain and isinstance(plain[0], str) else ""
    if kind == "conv2d":
        names = ("stride", "padding", "dilation", "groups")
        rest = [a for a in args[2:] if not (isinstance(a, Tensor) or a is None)]
        detail.update(zip(names, rest, strict=False))
    if isinstance(kwargs.get("out"), Tensor):
        detail["out"] = True
    return detail
