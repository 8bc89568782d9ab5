"""What sigmoid means between packed layers: float32, one rounding an operation.

1 / (1 + 2^t) with t = -x log2 e, on the power of two of packed/softmax.py. t ends at 126, where
the power is still a number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.packed.softmax import LOG2_E, exp2

LARGEST = 126.0


def define_sigmoid(x: Tensor) -> Tensor:
    """The definition. The absolute error is below 2e-7; NaN stays NaN.

    Shapes: any float32. Returns: likewise.
    """
    return 1 / (exp2(torch.clamp(x * -LOG2_E, max=LARGEST)) + 1)


def sigmoid(x: Tensor) -> Tensor:
    """Sigmoid: the definition, or the native kernel.

    Shapes: any float32. Returns: likewise, in the same order in memory.
    """
    kernels = native.kernels()
    if kernels is None or not native.takes(x):
        return define_sigmoid(x)
    threads = native.threads()
    return native.element_by_element(x, lambda a, y: kernels.sigmoid(a, y, threads))
