"""What sigmoid and SiLU mean between packed layers: float32, one rounding an operation.

1 / (1 + 2^t) with t = -x log2 e, on the power of two of packed/softmax.py. t ends at 126, where
the power is still a number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.packed.softmax import LOG2_E, exp2
from bitcompress.packed.tape import noted

LARGEST = 126.0
LOWEST = -100.0


def define_sigmoid(x: Tensor) -> Tensor:
    """The definition. The absolute error is below 2e-7; NaN stays NaN.

    Shapes: any float32. Returns: likewise.
    """
    return 1 / (exp2(torch.clamp(x * -LOG2_E, max=LARGEST)) + 1)


def define_silu(x: Tensor) -> Tensor:
    """x times its sigmoid, with one division; x ends at -100, where the product is as good as 0.

    Shapes: any float32. Returns: likewise.
    """
    return torch.clamp(x, min=LOWEST) / (exp2(torch.clamp(x * -LOG2_E, max=LARGEST)) + 1)


def sigmoid(x: Tensor) -> Tensor:
    """Sigmoid: the definition, or the native kernel.

    Shapes: any float32. Returns: likewise, in the same order in memory.
    """
    return noted("sigmoid", None, x, lambda: _by_kernel("sigmoid", define_sigmoid, x))


def silu(x: Tensor) -> Tensor:
    """SiLU: the definition, or the native kernel.

    Shapes: any float32. Returns: likewise, in the same order in memory.
    """
    return noted("silu", None, x, lambda: _by_kernel("silu", define_silu, x))


def _by_kernel(name: str, definition: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    kernels = native.kernels()
    if kernels is None or not native.takes(x):
        return definition(x)
    kernel, threads = getattr(kernels, name), native.threads()
    return native.element_by_element(x, lambda a, y: kernel(a, y, threads))
