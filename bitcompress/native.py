"""The only importer of compiled code: hands out the native kernels, or the reason why not.

Python holds the definition of every operation; the kernels may only be faster, never different.
BITCOMPRESS_NATIVE=off switches them off, which is how the definitions are tested alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor


@cache
def _load() -> tuple[ModuleType | None, str]:
    if os.environ.get("BITCOMPRESS_NATIVE", "").lower() == "off":
        return None, "switched off by BITCOMPRESS_NATIVE=off"
    try:
        return import_module("bitcompress._native"), ""
    except ImportError as error:
        return None, f"not built ({error}); reinstall bitcompress with a C++ compiler at hand"


def kernels() -> ModuleType | None:
    """The native module, or None where it is not built or switched off."""
    return _load()[0]


def why_not() -> str:
    """Why `kernels()` is None; empty where it is not."""
    return _load()[1]


def threads() -> int:
    """How many threads a kernel may use: torch's own setting, so that --threads rules both."""
    return torch.get_num_threads()


_here = threading.local()


@contextlib.contextmanager
def traced(state: bool = True) -> Iterator[None]:
    """While a model is written down as a graph of packed operators, for another runtime.

    Its tensors have no numbers; whoever asks whether kernels take one decides as for a plain one.
    state: False where an operator is written down as its definition.
    """
    before = is_traced()
    _here.traced = state
    try:
        yield
    finally:
        _here.traced = before


def is_traced() -> bool:
    """Whether this thread is writing a model down (see `traced`)."""
    return getattr(_here, "traced", False)


def takes(x: Tensor) -> bool:
    """Whether the kernels can read this tensor: a plain, real, non-empty float32 one on the CPU."""
    if is_traced():
        return x.dtype == torch.float32 and not hasattr(x, "work")
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > 0
        and type(x) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
    )


def element_by_element(x: Tensor, kernel: Callable[[Tensor, Tensor], None]) -> Tensor:
    """What a kernel from f32[n] to f32[n] makes of x, in the order of x in memory.

    The kernel may be given the same memory twice. Returns: like x.
    """
    out = torch.empty_like(x)
    source = x.detach() if x.stride() == out.stride() else out.copy_(x.detach())
    flat = (x.numel(),), (1,)
    kernel(source.as_strided(*flat), out.as_strided(*flat))
    return out
