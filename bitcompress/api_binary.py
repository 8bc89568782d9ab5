"""The whole walk to a binary model in one screen: open, prepare, settle, learn, pack, report.

A binary network is another network than its float model, so training is no option but the walk
itself; what comes out is packed and gives the bits of what was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitcompress import walk_binary as walk
from bitcompress.artifact import Source, layer_bytes, packed_bytes
from bitcompress.artifact import save as save
from bitcompress.blocks import PreparedBlocks
from bitcompress.graph.intercept import Rewritten
from bitcompress.measure.binary import build_report
from bitcompress.measure.stages import Stages
from bitcompress.memory import keep_large_blocks
from bitcompress.recipe import BinaryRecipe
from bitcompress.tasks import Task
from bitcompress.train.place import check_device

Progress = Callable[[str, int, int], None]


@dataclass
class BinaryResult:
    """A packed binary model, how it came about and what it cost."""

    model: Rewritten
    """Takes what the float model took, at any size it took, and runs packed."""
    report: dict[str, Any]
    recipe: BinaryRecipe
    source: Source
    edits: tuple[dict[str, Any], ...]
    float_model: nn.Module
    task: Task
    samples: list[tuple[str, Any]]
    """Pictures that the packed model made, for the report."""


def resolve(
    recipe: str | Path | BinaryRecipe,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    quick: bool = False,
    from_scratch: bool = False,
) -> BinaryRecipe:
    """The recipe of that name or file with its dotted keys overridden; quick steps become steps.

    Raises: RecipeError for what does not exist.
    """
    chosen = recipe if isinstance(recipe, BinaryRecipe) else BinaryRecipe.load(recipe)
    if quick:
        few = {"train.steps": chosen.train.quick_steps}
        if chosen.train.quick_batch is not None:
            few["train.batch"] = chosen.train.quick_batch
        chosen = chosen.set(few, "--quick")
    if from_scratch:
        chosen = chosen.set({"train.start": "scratch", "train.distill.share": 0.0})
    if overrides:
        if overrides.get("data.task", chosen.data.task) != chosen.data.task:
            chosen = chosen.set({"data.options": {}})  # they were those of the recipe's own task
        chosen = chosen.set(overrides)
    return chosen if seed is None else chosen.set({"seed": seed}, "--seed")


def inspect(
    model: nn.Module | str | Path | None,
    example_inputs: Any = None,
    *,
    recipe: str | Path | BinaryRecipe = "reactnet",
    source: Source | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> PreparedBlocks:
    """What would become of each layer, and why; nothing is trained, changed or written."""
    chosen = resolve(recipe, overrides=overrides)
    net, source = walk.open_model(model, source, chosen)
    return walk.plan(net, walk.example_of(net, source, None, example_inputs), chosen)


def binarize(
    model: nn.Module | str | Path | None = None,
    example_inputs: Any = None,
    *,
    recipe: str | Path | BinaryRecipe = "reactnet",
    data: Task | walk.Batches | str | Path | None = None,
    score: str | Path | None = None,
    seed: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    quick: bool = False,
    from_scratch: bool = False,
    progress: Progress | None = None,
    workdir: Path | None = None,
    resume: bool = False,
    curves: Path | None = None,
    source: Source | None = None,
) -> BinaryResult:
    """A packed binary twin of a model, trained, and a report of what it cost.

    model: left alone; None trains the recipe's own target.
    data: a folder (labelled pictures, photographs, ...: see `tasks/`), a Task, or batches of the
    model's inputs without labels, on which the student imitates the float model.
    quick: the recipe's quick_steps and quick_batch; what `overrides` name wins.
    Returns: a BinaryResult; `save` writes it to a folder.
    Raises: LoadError, CaptureError, RecipeError, DataError; GateError where the loss is no number
    any more or the packed model does not compute what was trained.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    check_device(device)
    keep_large_blocks()
    chosen = resolve(recipe, seed, overrides, quick=quick, from_scratch=from_scratch)
    torch.manual_seed(chosen.seed)
    stages, say = Stages(), progress or (lambda what, done, total: None)
    with stages("load"):
        say("open model and data", 0, 0)
        net, source = walk.open_model(model, source, chosen, data)
        task = walk.open_task(data, score, net, source, chosen)
        example = walk.example_of(net, source, task, example_inputs)
    with stages("prepare"):
        say("plan blocks", 0, 0)
        planned = walk.plan(net, example, chosen)
        student = walk.student_of(planned, task, chosen, progress)
    with stages("train"):
        teacher = walk.teacher_of(net, chosen)
        fitted = walk.train(
            student, teacher, task, chosen, device=device, folder=workdir, resume=resume,
            curves=curves, progress=progress, fingerprint=source.sha256,
        )  # fmt: skip
    with stages("pack"):
        trained = walk.scored(student, task, progress, "measure the trained model")
        near = walk.pack(student, planned, example)
    with stages("measure"):
        packed = walk.scored(student, task, progress, "measure the packed model")
        real = walk.scored(teacher, task, progress, "measure the float model")
    report = build_report(
        model=student, float_model=net, plans=planned.plans, example=example, near=near,
        stored=layer_bytes(student),
        packed_bytes=packed_bytes(student, source, planned.edits, chosen.metadata.name),
        quality={"float": real, "binary": trained, "packed": packed}, metric=task.metric,
        extra=walk.about(
            chosen, source, task, planned, fitted, quick, walk.output_notes(net, task, example)
        ) | {"stages": stages.rows},
    )  # fmt: skip
    return BinaryResult(
        student, report, chosen, source, planned.edits, net, task, task.samples(student)
    )
