"""What operators of `bench kernels` are made of: inputs from fixed seeds, the record of work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitcompress import native
from bitcompress.bench import rivals
from bitcompress.bench.cases import Case
from bitcompress.packed.stored import PackedTensor, pack

LOW, HIGH = -2.0, 2.0
"""Inputs are spread so that all codes occur."""


@dataclass(frozen=True)
class Work:
    """One case made ready.

    `make` gives a runner for the instruction set in use; `macs` counts multiply-accumulates,
    `bytes` what goes in and comes out.
    """

    make: Callable[[], Callable[[], Tensor]]
    rivals: rivals.Ways
    macs: int
    bytes: int


Build = Callable[[Case, int], Work]


def reals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grid(bits: int) -> tuple[Tensor, Tensor]:
    return torch.tensor([(HIGH - LOW) / ((1 << bits) - 1)]), torch.tensor([LOW])


def codes(bits: int, *shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 1 << bits, shape, generator=random, dtype=torch.uint8)


def weight(bits: int, *shape: int) -> PackedTensor:
    scale = torch.full((shape[0],), 0.1)
    return PackedTensor(pack(codes(bits, *shape), bits), shape, bits, scale, -scale)


def size(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def kernels() -> Any:
    """The native kernels; `bench kernels` asks for them before it begins."""
    found = native.kernels()
    assert found is not None
    return found
