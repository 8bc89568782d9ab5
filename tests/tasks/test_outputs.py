"""Models of several outputs: which one a task learns and scores, and that all are packed."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bitcompress
from bitcompress.errors import ShapeError
from bitcompress.tasks.base import main_tensor, named_output

A, B = torch.zeros(2, 3), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("output", "place", "wanted"),
    [
        (A, "", A),
        ([A], "", A),
        ((A, B), "0", A),
        ((A, {"features": B}), "0", A),
        ({"aux": B, "out": A}, "out", A),
        (OrderedDict(features=B, logits=A), "logits", A),
        ({"depth": A, "names": ["x"]}, "depth", A),
        ({"logits": B, "out": A}, "out", A),
    ],
)
def test_the_main_output_is_found(output: Any, place: str, wanted: Tensor) -> None:
    assert named_output(output)[0] == place
    assert main_tensor(output) is wanted


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"left": A, "right": B}, "gave a dict of left, right, in which none"),
        ([], "gave a list, in which none"),
        (("text", A), "gave a tuple, in which none"),
        (None, "gave a NoneType, in which none"),
        ({}, "gave a dict, in which none|gave a dict of , in which none"),
    ],
)
def test_no_main_output_is_refused(output: Any, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        main_tensor(output)


class Heads(nn.Module):
    """A classifier that gives its features beside its logits."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.body = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Any:
        """Shapes: (N, 3, H, W) -> logits (N, 3) and features (N, 32, H, W)."""
        features = self.body(self.first(x).relu())
        logits = self.head(features.relu().mean((2, 3)))
        return (logits, features) if self.kind == "tuple" else {"aux": features, "logits": logits}


@pytest.mark.parametrize(("kind", "place"), [("tuple", "0"), ("dict", "logits")])
def test_such_a_model_learns_is_scored_and_keeps_its_outputs(
    kind: str, place: str, classes_folder: Path
) -> None:
    torch.manual_seed(0)
    settings = {"train.steps": 2, "train.batch": 4, "train.precision": "fp32",
                "train.settle_batches": 1}  # fmt: skip
    done = bitcompress.binarize(
        Heads(kind).eval(), recipe="reactnet", data=classes_folder, overrides=settings
    )
    assert done.report["quality"]["packed"]["top1"] >= 0
    notes = [note for note in done.report["notes"] if "outputs" in note]
    assert len(notes) == 1 and repr(place) in notes[0]
    with torch.no_grad():
        out = done.model(torch.rand(2, 3, 8, 8))
    assert [tuple(t.shape) for t in (out if kind == "tuple" else (out["logits"], out["aux"]))] == [
        (2, 3), (2, 32, 8, 8),
    ]  # fmt: skip
