"""A packed block comes back from plain numbers and tensors; impossible numbers are refused."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import LoadError
from bitcompress.layers.binary import BlockSpec, Clock, PackedBlock, binary_block


def packed(method: str, layer: nn.Module, groups: int = 1, **spec: object) -> PackedBlock:
    clock = Clock(groups, 100) if groups > 1 else None
    if clock is not None:
        clock.set(torch.tensor([30, 99]))
    block = binary_block(layer, BlockSpec(method, groups, **spec), clock=clock)  # type: ignore[arg-type]
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return block.eval().pack()


BLOCKS = {
    "reactnet": lambda: packed("reactnet", nn.Conv2d(6, 9, 3, 2, 1)),
    "tables": lambda: packed("bidiffsr", nn.Conv2d(6, 6, 3, padding=1), 3),
    "thresholds": lambda: packed("bidiffsr", nn.Conv2d(6, 6, 3, padding=1), 3, timed="thresholds"),
    "activations": lambda: packed(
        "bidiffsr", nn.Conv2d(6, 6, 3, padding=1), 3, timed="activations"
    ),
    "words": lambda: packed("bidense", nn.Conv2d(6, 6, 3, padding=1), 2, dab_scale="group"),
    "tokens": lambda: packed("bidense", nn.Linear(6, 9)),
    "up": lambda: packed("xnor", nn.ConvTranspose2d(6, 9, 4, 2, 1, bias=False)),
    "mirror": lambda: packed("bireal", nn.Conv1d(6, 9, 3, padding=1, padding_mode="reflect")),
}


def some_input(block: PackedBlock) -> Tensor:
    if block.axis == -1:
        return torch.randn(2, 5, 6)
    return torch.randn(2, 6, 7) if block.geometry.line else torch.randn(2, 6, 7, 5)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_comes_back(name: str) -> None:
    block = BLOCKS[name]()
    settings = json.loads(json.dumps(block.settings()))
    tensors = dict(block.state_dict())
    wanted = PackedBlock.fields(settings)
    assert {k: (tuple(t.shape), t.dtype) for k, t in tensors.items()} == wanted
    again = PackedBlock.build(settings, tensors, block.clock)
    x = some_input(block)
    assert torch.equal(again(x), block(x))
    assert again.settings() == block.settings()


def test_missing_and_misshapen_tensors_are_refused() -> None:
    block = BLOCKS["tables"]()
    tensors = dict(block.state_dict())
    with pytest.raises(LoadError, match="clock"):
        PackedBlock.build(block.settings(), tensors)
    with pytest.raises(LoadError, match=r"needs scale of \(6,\)"):
        PackedBlock.build(block.settings(), {**tensors, "scale": torch.ones(5)}, block.clock)
    del tensors["weight"]
    with pytest.raises(LoadError, match="needs weight"):
        PackedBlock.build(block.settings(), tensors, block.clock)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weight_shape", [6, 6, 3]), ("weight_shape", [0, 6, 3, 3]), ("axis", 2), ("mode", "odd"),
        ("scaling", "channel"), ("pad_value", 3), ("groups", 0), ("groups", 2),
        ("tail", [["exp", 1, 0.0, False]]),
        ("tail", [["add", 2, 0.0, False]]), ("shortcut", None), ("geometry", [1, 2]),
        ("shortcut", [5, 6, 1, [1, 1], None, "paper2d"]),
        ("shortcut", [6, 6, 1, [1, 1], None, "x"]),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(key: str, value: object) -> None:
    settings = BLOCKS["tables"]().settings()
    with pytest.raises(LoadError, match="binary block"):
        PackedBlock.fields({**settings, key: value})
