"""What goes into the layers of a packed model while it runs in torch, to be paired with a file."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.backends.capture import run_once
from bitcompress.graph.intercept import Rewritten
from bitcompress.layers.binary import PackedBlock
from bitcompress.layers.binary.axes import PICTURES
from bitcompress.layers.binary.packed import Scaling
from bitcompress.layers.geometry import pad_for
from bitcompress.packed.binary import as_pixels
from bitcompress.packed.dab import WORD
from bitcompress.packed.tape import set_recorder


@dataclass(frozen=True)
class Tap:
    """What went into one layer: its kind, its name in the model or "", and the input."""

    kind: str
    name: str
    x: Tensor


class _Taps:
    """A recorder that keeps what goes into linears and convolutions, in order (packed/tape.py)."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs: list[Tap] = []
        self.names = {
            id(module): name.removeprefix("net.") for name, module in model.named_modules()
        }

    def step(self, kind: str, target: Any, inputs: Sequence[Tensor], compute: Any) -> Tensor:
        """Run the step, and keep its input."""
        if kind in ("linear", "conv2d"):
            name = self.names.get(id(target), "")
            self.inputs.append(Tap(kind, name, inputs[0].detach().clone()))
        before = set_recorder(None)
        try:
            made: Tensor = compute()
        finally:
            set_recorder(before)
        return made


def run_packed(model: Rewritten, named: Mapping[str, Tensor]) -> tuple[Any, list[Tap]]:
    """The packed model's output in torch, and what went into its linears and convolutions."""
    taps = _Taps(model)
    with torch.no_grad():
        made = run_once(model, named)
        before = set_recorder(taps)
        try:
            with _words_seen(model, taps):
                run_once(model, named)
        finally:
            set_recorder(before)
    return made, taps.inputs


def paired(layers: Sequence[Any], taps: Sequence[Tap]) -> list[tuple[int, Tap]]:
    """For each layer of a file the number of its tap, and the tap; empty where they do not pair.

    They go by the names of their weights, for a file need not be in the order of the run; where
    names do not tell (equal weights are one initialiser), by their order.
    """
    if len(layers) != len(taps):
        return []
    names = [node.name.split(":")[0] for node in layers]
    if Counter(names) != Counter(tap.name for tap in taps):
        return list(enumerate(taps))
    waiting: dict[str, list[tuple[int, Tap]]] = {}
    for number, tap in enumerate(taps):
        waiting.setdefault(tap.name, []).append((number, tap))
    return [waiting[name].pop(0) for name in names]


def _by_words(block: PackedBlock, x: Tensor) -> list[Tap]:
    """What is cut at 0 in each word of 32 channels, as the convolutions of a file see it."""
    pictures = block.geometry.opened(x) if block.axis == PICTURES else x
    theta = block.threshold.bounds(pictures, block.index(x)).theta
    theta = theta if theta.dim() == 2 else theta[None]
    seen = pad_for(pictures, block.geometry) if block.axis == PICTURES else as_pixels(x)
    return [
        Tap("conv2d", "", part) for part in torch.split(seen - theta[:, :, None, None], WORD, 1)
    ]


@contextlib.contextmanager
def _words_seen(model: nn.Module, taps: _Taps) -> Iterator[None]:
    """Keep what goes into blocks with a scale for each word: no step of theirs is recorded."""

    def seen(block: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(block, PackedBlock)
        taps.inputs.extend(_by_words(block, given[0]))

    hooks = [
        module.register_forward_pre_hook(seen)
        for module in model.modules()
        if isinstance(module, PackedBlock) and module.scaling is Scaling.WORD
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
