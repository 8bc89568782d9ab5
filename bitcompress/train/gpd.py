"""Gap-preserving distillation: a teacher grown from the student learns with it and teaches it.

A strong fixed teacher is far ahead of a binary student. This one begins as the student itself, bit
for bit, wider and in branches, shares the student's parameters, and stays as far ahead as its width
takes it. In the end the branches merge and the copies are left away: the student has its old names
and shapes, and computes what it computed while it learnt.
Source: GPD (ICLR 2025) and its code. Differs: reparam/columns.py says how the teacher is wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import RecipeError
from bitcompress.graph.capture import as_inputs
from bitcompress.train.classes import softened
from bitcompress.train.config import BatchSource, FitResult
from bitcompress.train.distill import first_tensor
from bitcompress.train.learn import LearnConfig, learn
from bitcompress.train.modes import frozen
from bitcompress.train.reparam import Columns, branch, merge


def _values(out: Tensor, teacher: Tensor) -> Tensor:
    return (out - teacher.detach()).abs().mean()


IMITATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "classes": softened,
    "values": _values,
}
"""How the student imitates the grown teacher: logits of classes, or numbers as they are."""


@dataclass(frozen=True)
class GapConfig:
    """How wide the teacher is and how much it says."""

    ratio: int = 2
    """Copies side by side; a step costs 1 + ratio^2 steps of the student. 1: branches alone."""
    branches: bool = True
    weight: float = 3.0
    imitation: str = "classes"


@dataclass(frozen=True)
class Grown:
    """A student and the teacher that grew from it; `both` holds all that learns."""

    student: nn.Module
    teacher: nn.Module | None
    both: nn.ModuleDict


def grow(student: nn.Module, example: Any, config: GapConfig) -> Grown:
    """Give the student's kernels branches and grow its teacher, which gives what the student gives.

    Raises: RecipeError if the teacher computes anything else, or the student cannot be grown.
    """
    if config.branches:
        for module in list(student.modules()):
            if not _rewrites(module):
                branch(module)
    if config.ratio == 1:
        return Grown(student, None, nn.ModuleDict({"student": student}))
    try:
        args, named = as_inputs(example)
        teacher = Columns(student, config.ratio, (args, named))
        with frozen([student, teacher]), torch.no_grad():
            want = first_tensor(student(*args, **named))
            got = first_tensor(teacher(*args, **named))
    except (AttributeError, TypeError, RuntimeError, ValueError, IndexError) as error:
        raise RecipeError(f"no teacher can be grown from the model ({error}); {_NARROW}") from error
    if got.shape != want.shape or not torch.allclose(got, want, rtol=1e-3, atol=1e-5):
        raise RecipeError(
            f"the teacher that grew from the model is another function: samples of a batch do not "
            f"stay apart in it; {_NARROW}"
        )
    return Grown(student, teacher, nn.ModuleDict({"student": student, "teacher": teacher}))


_NARROW = "take a gap of ratio 1 (branches alone) or another distillation"


def _rewrites(module: nn.Module) -> bool:
    """Whether a binary core writes into its latent weights before each step."""
    from bitcompress.layers.binary.core import BinaryCore
    from bitcompress.quant.weights import WEIGHTS

    return isinstance(module, BinaryCore) and WEIGHTS[module.rule].before is not None


def gap_loss(
    grown: Grown, loss: Callable[[nn.Module, Any], Tensor], config: GapConfig
) -> Callable[[Any], Tensor]:
    """loss(teacher) + loss(student) + weight * imitation(student, teacher), of one micro-batch.

    The teacher hears nothing of the imitation.
    """
    teacher = grown.teacher
    if teacher is None:
        return lambda inputs: loss(grown.student, inputs)
    imitate = IMITATIONS[config.imitation]

    def total(inputs: Any) -> Tensor:
        with _heard(teacher) as said, _heard(grown.student) as repeated:
            value = loss(teacher, inputs) + loss(grown.student, inputs)
            return value + config.weight * imitate(repeated[-1], said[-1].detach())

    return total


@contextmanager
def _heard(net: nn.Module) -> Iterator[list[Tensor]]:
    outs: list[Tensor] = []
    handle = net.register_forward_hook(lambda module, args, out: outs.append(first_tensor(out)))
    try:
        yield outs
    finally:
        handle.remove()


def learn_with_gap(
    student: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: BatchSource,
    config: LearnConfig,
    gap: GapConfig,
    example: Any,
    **named: Any,
) -> FitResult:
    """Train the student as `learn` does, with a teacher grown from it.

    loss(model, inputs) runs the model once, student or teacher. Further arguments are `learn`'s.
    Whatever happens, the student ends with the names and shapes that it came with.
    Raises: as `learn` and `grow`.
    """
    if gap.imitation not in IMITATIONS:
        raise RecipeError(f"imitation {gap.imitation!r} is none of {', '.join(IMITATIONS)}")
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(config.fit.seed)  # a resumed run grows the same teacher
            grown = grow(student, example, gap)
        return learn(grown.both, gap_loss(grown, loss, gap), batches, config, **named)
    finally:
        merge(student)
        student.eval()
