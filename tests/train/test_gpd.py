"""Gap-preserving distillation: who hears what, how it ends, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitcompress.errors import Interrupted, RecipeError
from bitcompress.layers.binary import BinaryBlock, BlockSpec, binary_block
from bitcompress.train import FitConfig, LearnConfig, Stage
from bitcompress.train.classes import labelled
from bitcompress.train.gpd import GapConfig, gap_loss, grow, learn_with_gap

CONFIG = LearnConfig(FitConfig(steps=6, save_every=3, average=0.5, clip=1.0), lr=0.01)
GAP = GapConfig()
EXAMPLE = torch.zeros(2, 3, 6, 6)


def net() -> nn.Sequential:
    """Two binary blocks between float layers."""
    torch.manual_seed(1)
    spec = BlockSpec("reactnet")
    blocks = [binary_block(nn.Conv2d(8, 8, 3, padding=1), spec) for _ in range(2)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip


def batches(step: int, process: int, processes: int) -> list[tuple[float, Any]]:
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 4, (8,), generator=generator)
    x = torch.rand(8, 3, 6, 6, generator=generator) + labels.view(-1, 1, 1, 1) / 4
    return [(1.0, (x, labels))]


def loss(model: nn.Module, inputs: Any) -> Tensor:
    x, labels = inputs
    return labelled(model(x), labels)


def gradients(weight: float) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor]]:
    """Of the student's parameters, of those that only the teacher has, and of both losses."""
    student = net()
    torch.manual_seed(5)
    gap = replace(GAP, weight=weight)
    grown = grow(student, EXAMPLE, gap)
    grown.both.train()
    inputs = batches(0, 0, 1)[0][1]
    ours = dict(student.named_parameters())
    same = {id(p) for p in ours.values()}
    theirs = {n: p for n, p in grown.teacher.named_parameters() if id(p) not in same}
    gap_loss(grown, loss, gap)(inputs).backward()
    found = [
        {n: p.grad.clone() for n, p in d.items() if p.grad is not None} for d in (ours, theirs)
    ]
    parts = []
    for model in (student, grown.teacher):
        for p in grown.both.parameters():
            p.grad = None
        loss(model, inputs).backward()
        parts.append({n: 0 if p.grad is None else p.grad for n, p in ours.items()})
    sums = [parts[0][n] + parts[1][n] for n in found[0]]
    return found[0], found[1], sums


def test_the_teacher_hears_nothing_of_the_imitation() -> None:
    silent, loud = gradients(0.0), gradients(3.0)
    assert silent[1].keys() == loud[1].keys() and silent[1]
    assert all(torch.equal(silent[1][n], loud[1][n]) for n in silent[1])
    assert any(not torch.equal(silent[0][n], loud[0][n]) for n in silent[0])


def test_both_losses_add_up_in_the_shared_parameters() -> None:
    ours, _, sums = gradients(0.0)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours.values(), sums, strict=True))


@pytest.mark.parametrize("ratio", [1, 2])
def test_the_student_comes_back_with_its_names_and_shapes(ratio: int) -> None:
    student, plain = net(), net()
    result = learn_with_gap(
        student, loss, batches, CONFIG, replace(GAP, ratio=ratio), EXAMPLE
    )  # fmt: skip
    assert len(result.losses) == 6
    ours, theirs = student.state_dict(), plain.state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
    assert any(not torch.equal(ours[n], theirs[n]) for n in theirs)
    assert [type(m) for m in student.modules()] == [type(m) for m in plain.modules()]
    x = batches(9, 0, 1)[0][1][0]
    block = student[1].eval()
    with torch.no_grad():
        y = student[0](x)
        assert torch.equal(block.pack()(y), block(y))


def test_interrupted_and_resumed_ends_bit_for_bit(tmp_path: Path) -> None:
    def switch(student: nn.Module) -> list[Stage]:
        def both() -> None:
            for module in student.modules():
                if isinstance(module, BinaryBlock):
                    module.stage = "both"

        return [Stage(0.5, both, restart=True)]

    def stopped(step: int, process: int, processes: int) -> list[tuple[float, Any]]:
        if step == 4:
            raise Interrupted("the lights are out")
        return batches(step, process, processes)

    def run(source: Any, **named: Any) -> tuple[nn.Module, list[float]]:
        student = net()
        for module in student.modules():
            if isinstance(module, BinaryBlock):
                module.stage = "activations"
        result = learn_with_gap(
            student, loss, source, CONFIG, GAP, EXAMPLE, stages=switch(student), **named
        )
        return student, result.losses

    whole, losses = run(batches)
    with pytest.raises(Interrupted):
        run(stopped, folder=tmp_path)
    resumed, again = run(batches, folder=tmp_path, resume=True)
    assert again == losses
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


class Mixing(nn.Module):
    """Looks at other samples of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = torch.cumsum(y, 0)
        out: Tensor = self.third(self.second(y))
        return out


class Peeking(Mixing):
    """Takes a layer's weight without calling the layer."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.third(self.second(self.first(x)) @ self.second.weight)
        return out


@pytest.mark.parametrize(
    ("model", "says"),
    [(Mixing(), "samples of a batch do not stay apart"), (Peeking(), "no teacher can be grown")],
)
def test_models_that_cannot_be_grown_are_refused(model: nn.Module, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        grow(model, torch.randn(4, 4), GAP)


def test_an_unknown_imitation_is_refused() -> None:
    with pytest.raises(RecipeError, match="imitation 'words' is none of classes, values"):
        learn_with_gap(net(), loss, batches, CONFIG, GapConfig(imitation="words"), EXAMPLE)
