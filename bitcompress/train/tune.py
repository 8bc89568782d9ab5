"""The two trainings of a quantized student: its bounds alone (DQC), or bounds and weights.

Both imitate the float teacher on unlabelled inputs; no ground truth is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import RecipeError
from bitcompress.graph.capture import as_inputs
from bitcompress.graph.intercept import Rewritten
from bitcompress.quant.uniform import UniformQuantizer
from bitcompress.train.config import BatchSource, FitConfig, FitResult, Progress
from bitcompress.train.distill import LOSSES, features, find_taps, first_tensor, tapped
from bitcompress.train.groups import Group
from bitcompress.train.loop import fit


@dataclass(frozen=True)
class TuneConfig:
    """What moves, how fast, towards which loss."""

    method: str
    """`dqc`: bounds alone; `finetune`: bounds, weights, biases and norms."""
    lr_bounds: float
    lr_weights: float
    relative_bounds: bool
    loss: str
    feature_weight: float
    taps: tuple[str, ...] = ()


def bound_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The two bounds of every quantizer."""
    return [
        bound
        for module in model.modules()
        if isinstance(module, UniformQuantizer)
        for bound in (module.lower, module.upper)
    ]


def weight_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Every other parameter that holds numbers a small step can move.

    Adam's steps are lost in half precision, and its divisor underflows to zero there; its fused
    form takes no complex numbers.
    """
    bounds = {id(p) for p in bound_parameters(model)}
    return [
        p
        for p in model.parameters()
        if id(p) not in bounds and p.device.type != "meta"
        and p.dtype in (torch.float32, torch.float64)
    ]  # fmt: skip


def _followed(student: Rewritten, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The student's output with its gradients. Raises: RecipeError where there are none."""
    without = "set train.method to none to go without tuning (--set train.method=none)"
    try:
        out = first_tensor(student(*args, **kwargs))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RecipeError(f"the model fails while it is tuned: {error}; {without}") from error
    if not out.requires_grad:
        raise RecipeError(
            "no gradient comes through the model: its forward switches gradients off, or leaves "
            f"torch; {without}"
        )
    return out


def tune(
    student: Rewritten,
    teacher: nn.Module,
    batch: BatchSource,
    config: TuneConfig,
    fit_config: FitConfig,
    *,
    device: str = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Train the student to imitate the teacher; bounds stay ordered, all else is frozen.

    Source: 2DQuant (NeurIPS 2024), section 3.3 for `dqc`. Differs: bounds may be trained in units
    of their initial width, so that one learning rate fits all; upper never falls below lower.
    """
    if config.relative_bounds:
        for module in student.modules():
            if isinstance(module, UniformQuantizer):
                module.rescale()
    groups = [Group(tuple(bound_parameters(student)), config.lr_bounds)]
    if config.method == "finetune" and config.lr_weights:
        groups.append(Group(tuple(weight_parameters(student)), config.lr_weights))
    trained = {id(p) for group in groups for p in group.params}
    frozen = [(p, p.requires_grad) for p in [*student.parameters(), *teacher.parameters()]]
    for p, _ in frozen:
        p.requires_grad_(id(p) in trained)
    student.eval()
    teacher.eval()
    names = find_taps(teacher, config.taps) if config.feature_weight else ()
    measure = LOSSES[config.loss]
    try:
        with tapped(student.net, names) as got, tapped(teacher, names) as want:

            def loss(inputs: Any) -> Tensor:
                args, kwargs = as_inputs(inputs)
                # A forward that draws random numbers draws the same ones for both.
                drawn = torch.get_rng_state()
                with torch.no_grad():
                    target = first_tensor(teacher(*args, **kwargs))
                torch.set_rng_state(drawn)
                out = _followed(student, args, kwargs)
                f, g = features(got, names), features(want, names)
                return measure(out, target, f, g, config.feature_weight)

            return fit(
                groups, batch, loss, fit_config,
                device=device, folder=folder, resume=resume, progress=progress,
            )  # fmt: skip
    finally:
        for p, needed in frozen:
            p.requires_grad_(needed)
