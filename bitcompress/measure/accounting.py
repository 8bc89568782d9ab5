"""Parameters and operations as papers on binary networks count them, beside what is true.

Params = real numbers + binary weights / 32. OPs = real multiplications + binary ones / 64. Neither
is a size of a file nor a time: a report prints them beside bytes and milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bitcompress.layers.binary.block import BinaryBlock
from bitcompress.layers.binary.packed import PackedBlock
from bitcompress.layers.binary.spec import METHODS
from bitcompress.packed.binary import TailStep

WEIGHTS_A_PARAMETER, PRODUCTS_AN_OP = 32, 64
NORM_OPS = 5
"""Operations of group norm for each number. Source: the count of BI-DiffSR comes out with it."""


@dataclass(frozen=True)
class Accounting:
    """What one run of a model takes, counted as the papers count.

    Units: numbers, and multiply-adds of one run. Not counted, as in the papers: activations,
    residual sums, Sign, scales that follow from weights, batch norm (it folds).
    Source: Bi-Real Net (ECCV 2018) for 1/32 and 1/64; BI-DiffSR (NeurIPS 2024), section 4.1.
    """

    real_parameters: int
    binary_weights: int
    real_macs: int
    """Of convolutions and linear layers in floating point."""
    product_macs: int
    """Of products of two activations: attention."""
    norm_ops: int
    """Of group norm."""
    binary_macs: int

    @property
    def parameters(self) -> float:
        """Params of the papers."""
        return self.real_parameters + self.binary_weights / WEIGHTS_A_PARAMETER

    @property
    def real_ops(self) -> int:
        """The part of `ops` that no bit makes cheaper."""
        return self.real_macs + self.product_macs + self.norm_ops

    @property
    def ops(self) -> float:
        """OPs of the papers."""
        return self.real_ops + self.binary_macs / PRODUCTS_AN_OP

    @property
    def float_ops(self) -> int:
        """What the same layers take in floating point."""
        return self.real_ops + self.binary_macs

    @property
    def bytes_if_exact(self) -> float:
        """Bytes of real numbers in fp32 and one bit for each binary weight. Units: bytes."""
        return 4 * self.real_parameters + self.binary_weights / 8

    def figures(self) -> dict[str, float]:
        """The numbers of a report."""
        return {
            "params": self.parameters,
            "params_real": self.real_parameters,
            "params_binary": self.binary_weights,
            "ops": self.ops,
            "ops_real": self.real_ops,
            "ops_binary": self.binary_macs / PRODUCTS_AN_OP,
            "macs_real": self.real_macs,
            "macs_products": self.product_macs,
            "norm_ops": self.norm_ops,
            "macs_binary": self.binary_macs,
            "ops_as_float": self.float_ops,
            "bytes_if_exact": self.bytes_if_exact,
        }

    def lines(self, stored: int | None = None, milliseconds: float | None = None) -> list[str]:
        """Sentences for people: the counts, and the true bytes and time where they are known."""
        said = [
            f"Params {self.parameters / 1e6:.3f} M: {self.real_parameters:,} real, "
            f"{self.binary_weights:,} binary / {WEIGHTS_A_PARAMETER}",
            f"OPs {self.ops / 1e9:.3f} G: real {self.real_ops / 1e9:.3f} G "
            f"({self.real_ops / max(self.ops, 1):.0%}), binary "
            f"{self.binary_macs / PRODUCTS_AN_OP / 1e9:.3f} G "
            f"({self.binary_macs / 1e9:.3f} GMAC / {PRODUCTS_AN_OP})",
        ]
        if stored is not None:
            said.append(
                f"stored {stored:,} bytes; real numbers and bits {self.bytes_if_exact:,.0f}"
            )
        if milliseconds is not None:
            said.append(f"measured {milliseconds:.1f} ms a run; OPs are no time")
        return said


def account(model: nn.Module, *inputs: Any, **named: Any) -> Accounting:
    """Counts of one run of a model with binary blocks, trainable or packed, in eval mode."""
    counter = _Counter()
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), _watched(model, counter), counter:
            model(*inputs, **named)
    finally:
        for module, mode in modes:
            module.training = mode
    blocks = [m for m in model.modules() if isinstance(m, BinaryBlock | PackedBlock)]
    return Accounting(
        real_parameters=_real_numbers(model),
        binary_weights=sum(block.weights for block in blocks),
        real_macs=counter.counts["real"],
        product_macs=counter.counts["product"],
        norm_ops=NORM_OPS * counter.counts["norm"],
        binary_macs=counter.counts["binary"],
    )


def _real_numbers(model: nn.Module) -> int:
    """Real parameters of a model; of a packed block the numbers that were parameters.

    Not counted: latent weights, scales that follow from them (and what a norm folded into those),
    a shortcut's gain that is 1, the threshold of methods that have none.
    """
    numbers = {id(p): p.numel() for p in model.parameters()}
    for block in model.modules():
        if isinstance(block, BinaryBlock):
            dropped, added = [block.core.weight], []
            method = block.spec.method
        elif isinstance(block, PackedBlock):
            dropped, added = [block.scale], _tables(block)
            method = block.method
        else:
            continue
        if METHODS[method].threshold == "none":
            dropped += block.threshold.parameters()
        elif isinstance(block, PackedBlock):  # `gain` is a fixed power of two
            cut = block.threshold.named_buffers()
            added += [table for name, table in cut if name != "gain"]
        gain = None if block.shortcut is None else block.shortcut.gain
        if gain is not None and torch.equal(gain, torch.ones_like(gain)):
            dropped.append(gain)
        for tensor in dropped:
            numbers.pop(id(tensor), None)
        numbers |= {id(tensor): tensor.numel() for tensor in added}
    return sum(numbers.values())


def _tables(block: PackedBlock) -> list[Tensor]:
    """The tables of the steps after the sums."""
    steps: list[TailStep] = block.tail
    return [table for step in steps for table in (step.table, step.shift) if table is not None]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up multiplications of real numbers, outside of binary blocks."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()
        self.inside = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = _FORMULAS.get(func.overloadpacket.__name__)
        if formula is not None and not self.inside:
            kind, macs = formula(args, out)
            self.counts[kind] += macs
        return out


def _convolution(args: tuple[Any, ...], out: Tensor) -> tuple[str, int]:
    weight, transposed = args[1], args[6]
    pixels = (args[0] if transposed else out).numel()
    return "real", pixels * (weight.numel() // weight.shape[0])


def _product(kind: str, first: int) -> Callable[[tuple[Any, ...], Tensor], tuple[str, int]]:
    return lambda args, out: (kind, out.numel() * int(args[first].shape[-1]))


def _attention(args: tuple[Any, ...], out: Any) -> tuple[str, int]:
    q, k, v = args[:3]
    pairs = q.numel() // q.shape[-1] * k.shape[-2]
    return "product", int(pairs * (q.shape[-1] + v.shape[-1]))


def _group_norm(args: tuple[Any, ...], out: Any) -> tuple[str, int]:
    return "norm", args[0].numel()


_FORMULAS: dict[str, Callable[[tuple[Any, ...], Any], tuple[str, int]]] = {
    "convolution": _convolution,
    "addmm": _product("real", 1),
    "mm": _product("real", 0),
    "bmm": _product("product", 0),
    "baddbmm": _product("product", 1),
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "native_group_norm": _group_norm,
}
"""(arguments, result) of an operator -> the kind of its work and how much."""


@contextmanager
def _watched(model: nn.Module, counter: _Counter) -> Iterator[None]:
    """While this is open, binary blocks and group norms report what they do, and hide the rest.

    A packed model runs group norm by a definition of our own, which the dispatcher does not see.
    """

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        counter.inside += 1

    def leave(module: BinaryBlock | PackedBlock, args: tuple[Any, ...], out: Tensor) -> None:
        counter.inside -= 1
        counter.counts["binary"] += module.weights * _places(module, args[0], out)

    def normed(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        counter.inside -= 1
        if not counter.inside:
            counter.counts["norm"] += out.numel()

    handles = []
    for module in model.modules():
        if isinstance(module, BinaryBlock | PackedBlock):
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
        elif isinstance(module, nn.GroupNorm):
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(normed))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _places(block: BinaryBlock | PackedBlock, given: Tensor, out: Tensor) -> int:
    """At how many places the whole kernel of a block is applied, border included."""
    geometry = block.geometry if isinstance(block, PackedBlock) else block.core.geometry
    inwards, outwards = block.channels
    return out.numel() // outwards if geometry.up is None else given.numel() // inwards
