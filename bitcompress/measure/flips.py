"""How near a packed binary model is to the trained one: its bits, and its output.

The bits are those that each block cuts its input into, in one run of the whole model. They are
equal where packing is exact; where another summation order comes in, a number beside a threshold
may fall to the other side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bitcompress.graph.intercept import Rewritten
from bitcompress.layers.binary import BinaryBlock, PackedBlock
from bitcompress.layers.binary.axes import PICTURES, along
from bitcompress.parity import compared, parity

Bits = dict[str, Tensor]


@dataclass(frozen=True)
class Near:
    """How far the packed model is from the trained one on one input."""

    psnr_db: float
    """Between both outputs, the peak being the range of the trained one; infinite: equal."""
    changed_share: float
    """The share of 8-bit output values that differ."""
    flipped_share: float
    """The share of all input bits of all blocks that differ."""
    bits: int
    """How many bits were compared."""
    flips: dict[str, float] = field(default_factory=dict)
    """The share of each block that has any."""

    @classmethod
    def of(cls, before: Bits, after: Bits, wanted: Any, got: Any) -> Near:
        """The distance of two runs: the bits of each, and their outputs."""
        total = flipped = 0
        shares = {}
        for name, bits in before.items():
            other = after[name]
            differ = int((bits != other).sum())
            total, flipped = total + bits.numel(), flipped + differ
            if differ:
                shares[name] = differ / bits.numel()
        near = parity(compared(wanted), compared(got))
        return cls(
            near.psnr_db if not math.isnan(near.psnr_db) else -math.inf, near.changed_share,
            flipped / total if total else 0.0, total, shares,
        )  # fmt: skip


def bits_of(block: BinaryBlock | PackedBlock, x: Tensor) -> Tensor:
    """The bits that a block cuts x into, in the time group of the run at hand.

    Shapes: those of x, for tokens and pictures alike.
    """
    geometry = block.core.geometry if isinstance(block, BinaryBlock) else block.geometry
    index = block._index(x) if isinstance(block, BinaryBlock) else block.index(x)
    with torch.no_grad():
        seen = geometry.opened(x) if block.axis == PICTURES else x
        theta = block.threshold.bounds(seen, index).theta
        return seen >= along(theta, seen.dim(), block.axis)


@contextmanager
def watched(student: Rewritten) -> Iterator[Bits]:
    """While this is open, the bits of each block's last input are kept by the block's name."""
    found: Bits = {}

    def hook(name: str) -> Any:
        def keep(module: BinaryBlock | PackedBlock, args: tuple[Any, ...]) -> None:
            found[name] = bits_of(module, args[0])

        return keep

    handles = [
        module.register_forward_pre_hook(hook(name))
        for name, module in student.named_modules()
        if isinstance(module, BinaryBlock | PackedBlock)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
