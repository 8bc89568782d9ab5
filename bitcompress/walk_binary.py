"""The walk to a binary model, stage by stage; `api_binary.binarize` is these in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitcompress.api import example_for, opened, seen
from bitcompress.artifact import Source
from bitcompress.blocks import (
    BlockPolicy,
    PreparedBlocks,
    blocks_of,
    insert_blocks,
    pack_blocks,
    prepare_binary,
    settle,
)
from bitcompress.data.calibration import packaged_calibration
from bitcompress.errors import CaptureError, GateError, NotPackable, UsageError
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.capture import as_inputs, private_copy
from bitcompress.graph.intercept import Rewritten
from bitcompress.measure.flips import Near, watched
from bitcompress.models.targets import build_target
from bitcompress.recipe import BinaryRecipe
from bitcompress.recipe.binary import Target
from bitcompress.tasks import Request, Task, task_of
from bitcompress.tasks.base import evaluating, named_output
from bitcompress.tasks.imitate import Imitate
from bitcompress.train import FitConfig, FitResult, LearnConfig, Stage, learn
from bitcompress.train.gpd import GapConfig, learn_with_gap

Progress = Callable[[str, int, int], None]
Batches = Iterable[Any]
PICTURES = ("sr", "diffusion")
"""Tasks that can learn on the small pictures that come with bitcompress, where no data is given."""


def open_model(
    model: nn.Module | str | Path | None,
    source: Source | None,
    recipe: BinaryRecipe,
    data: Any = None,
) -> tuple[nn.Module, Source]:
    """The float model and where it comes from; without one, the recipe's own target.

    From scratch its weights are drawn anew, from the recipe's seed.
    Raises: UsageError where there is no model and the recipe has no target.
    """
    if model is None:
        if recipe.target is None:
            raise UsageError(
                f"the recipe {recipe.metadata.name} has no target of its own: give a model"
            )
        return own_target(recipe.target)
    net, found = opened(model)
    named = recipe.data.task != "auto" or recipe.data.scale is not None
    found = found if named else seen(found, net, data)
    if recipe.train.start == "scratch":
        net = private_copy(net)
        for module in net.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return net, source or found


def own_target(target: Target) -> tuple[nn.Module, Source]:
    """The network that a recipe names, with fresh weights, and how it is built again."""
    net = build_target(target.model, target.config).eval()
    return net, Source(
        arch=target.model, config=dict(target.config), task=getattr(net, "task", None),
        scale=None, image_range=1.0, sha256="",
        class_name=f"{type(net).__module__}:{type(net).__qualname__}",
    )  # fmt: skip


def open_task(
    data: Task | Batches | str | Path | None,
    score: str | Path | None,
    net: nn.Module,
    source: Source,
    recipe: BinaryRecipe,
) -> Task:
    """What the student learns and is scored by.

    Raises: DataError where the data is empty, has no labels, or is not of the model's task.
    """
    if isinstance(data, Task):
        return data
    if data is not None and not isinstance(data, str | Path):
        return Imitate.of(data, private_copy(net).eval())
    options = dict(recipe.data.options)
    if recipe.train.distill.share is not None:
        options["distill"] = recipe.train.distill.share
    if recipe.train.distill.temperature is not None:
        options["temperature"] = recipe.train.distill.temperature
    named = recipe.data.task if recipe.data.task != "auto" else None
    if data is None and (named or source.task) in PICTURES:
        data = packaged_calibration()
    request = Request(
        data=None if data is None else Path(data), held=None if score is None else Path(score),
        scale=source.scale or recipe.data.scale, image_range=source.image_range, model=net,
        options=options,
    )  # fmt: skip
    return task_of(request, named)


def example_of(net: nn.Module, source: Source, task: Task | None, given: Any) -> Any:
    """Inputs for one run: those given, those of the task, or those of a known network."""
    if given is not None:
        return given
    return task.example(net) if task is not None else example_for(source)


def output_notes(net: nn.Module, task: Task, example: Any) -> list[str]:
    """Which of several outputs a task learns and scores, as a note of the report."""
    if isinstance(task, Imitate):
        return []
    args, kwargs = as_inputs(example)
    with evaluating(net):
        output = net(*args, **kwargs)
    place = named_output(output)[0]
    if not place or len(tensors_of(output)) < 2:
        return []
    return [
        f"of the model's outputs, {place!r} is learnt and scored; the others are packed with it"
    ]


def plan(net: nn.Module, example: Any, recipe: BinaryRecipe) -> PreparedBlocks:
    """Capture a private copy of the model and say what becomes of each layer.

    Raises: CaptureError where the model fails on the example, or where no layer can become a block;
    RecipeError where the recipe needs a timestep that the model does not have, or a pattern matches
    nothing.
    """
    trained = recipe.train.start == "float"
    policy = BlockPolicy(**recipe.blocks.model_dump(), start="trained" if trained else "scratch")
    own = getattr(net, "float_layers", None)
    if own is not None:  # a network that was made for blocks and has its resampling wired for them
        policy = replace(policy, keep=(*policy.keep, *own), fp_tail_levels=0, reshape=False)
    try:
        return prepare_binary(net, example, policy)
    except NotPackable as error:
        raise CaptureError(str(error)) from error


def student_of(
    planned: PreparedBlocks, task: Task, recipe: BinaryRecipe, progress: Progress | None = None
) -> Rewritten:
    """The trainable binary model, its thresholds and scales set on batches of the task."""
    net = planned.captured.net
    batches = inputs_of(net, task, recipe)
    student = insert_blocks(planned)
    settle(student, batches, trained=recipe.train.start == "float", progress=progress)
    return student


def inputs_of(net: nn.Module, task: Task, recipe: BinaryRecipe) -> list[Any]:
    """What the task's loss gives to a model in the first batches, as (args, kwargs)."""
    ear = _Ear(net)
    batches = task.batches(recipe.train.batch, recipe.seed)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        for step in range(recipe.train.settle_batches):
            for _, batch in batches(step, 0, 1):
                task.loss(ear, batch, net)
    return ear.heard


class _Ear(nn.Module):
    """The model, remembering what it was called with."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.heard: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model says."""
        self.heard.append((args, kwargs))
        return self.net(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)


def teacher_of(net: nn.Module, recipe: BinaryRecipe) -> nn.Module | None:
    """The float model as a teacher; None where it is not trained or not to be asked."""
    if recipe.train.start == "scratch" or recipe.train.distill.share == 0:
        return None
    return private_copy(net).eval().requires_grad_(False)


def train(
    student: Rewritten,
    teacher: nn.Module | None,
    task: Task,
    recipe: BinaryRecipe,
    *,
    device: str = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    curves: Path | None = None,
    progress: Progress | None = None,
    fingerprint: str = "",
) -> FitResult:
    """Train the student as the recipe says; it ends in eval mode.

    Raises: GateError where the loss is no number any more, naming the step; the last good
    checkpoint stays. Interrupted after Ctrl-C. LoadError where a checkpoint is of another run.
    """
    wanted = recipe.train
    config = LearnConfig(
        FitConfig(
            steps=wanted.steps, betas=wanted.betas, schedule=wanted.schedule, warmup=wanted.warmup,
            save_every=wanted.save_every, optimizer=wanted.optimizer, clip=wanted.clip,
            precision=wanted.precision, average=wanted.ema, seed=recipe.seed,
            fingerprint=f"{fingerprint}|{task.fingerprint}|{recipe.to_yaml()}",
        ),
        lr=wanted.lr, weight_decay=wanted.weight_decay, rates=tuple(wanted.rates.items()),
        curves=curves, channels_last=_pictures(task.example(student)),
    )  # fmt: skip
    batches = task.batches(wanted.batch, recipe.seed)
    stages = _stages(student, wanted.stages.first_share)
    if not wanted.steps:
        student.eval()
        return FitResult()
    given: dict[str, Any] = {
        "device": device, "folder": folder, "resume": resume, "progress": progress,
        "stages": stages, "beside": [] if teacher is None else [teacher],
    }  # fmt: skip
    if not wanted.gpd.enabled:
        return learn(
            student, lambda batch: task.loss(student, batch, teacher), batches, config, **given
        )
    gap = GapConfig(
        ratio=wanted.gpd.ratio,
        branches=wanted.gpd.branches,
        weight=wanted.gpd.weight,
        imitation="classes" if task.name == "classify" else "values",
    )
    return learn_with_gap(
        student, lambda model, batch: task.loss(model, batch, teacher), batches, config, gap,
        task.example(student), **given,
    )  # fmt: skip


def _pictures(example: Any) -> bool:
    """Whether a model is fed with pictures: those train faster with their channels last."""
    return any(tensor.dim() == 4 for tensor in tensors_of(as_inputs(example)))


def _stages(student: nn.Module, first_share: float) -> list[Stage]:
    """Binary activations on real weights first, both binary for the rest of the run."""
    if not first_share:
        return []
    blocks = blocks_of(student).values()

    def switch(stage: str) -> Callable[[], None]:
        def act() -> None:
            for block in blocks:
                block.stage = stage

        return act

    switch("activations")()
    return [Stage(at=first_share, act=switch("both"), restart=True, weight_decay=0.0, name="both")]


def scored(
    model: nn.Module | None, task: Task, progress: Progress | None, what: str
) -> dict[str, float]:
    """The task's figures of a model on the data that was held out; none of no model."""
    if model is None:
        return {}
    if progress is not None:
        progress(what, 0, 0)
    return task.evaluate(model)


def pack(student: Rewritten, planned: PreparedBlocks, example: Any) -> Near:
    """Replace every block by its packed twin, and say how far that moved bits and output.

    Raises: GateError where the packed model is not what was trained.
    """
    args, kwargs = as_inputs(example)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with watched(student) as before:
            wanted = student(*args, **kwargs)
        pack_blocks(student)
        torch.manual_seed(0)
        with watched(student) as after:
            got = student(*args, **kwargs)
    near = Near.of(before, after, wanted, got)
    if not near.psnr_db >= MIN_PARITY_DB:
        raise GateError(
            f"packed and trained output differ by {near.psnr_db:.1f} dB, at least "
            f"{MIN_PARITY_DB:.0f} dB is the law; please report this model"
        )
    return near


MIN_PARITY_DB = 30.0
"""How close packed and trained output must be: they are equal but for bits that flip at a tie."""


def about(
    recipe: BinaryRecipe,
    source: Source,
    task: Task,
    planned: PreparedBlocks,
    fitted: FitResult,
    quick: bool,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """What the report says of the run itself; `notes` are those that the plan does not know."""
    losses = fitted.losses
    last = losses[-20:]
    return {
        "recipe": recipe.metadata.name,
        "bits_asked": 1,
        "quick": quick,
        "seed": recipe.seed,
        "model": source.to_json(),
        "task": task.name,
        "task_config": task.config(),
        "data": task.description,
        "notes": [*planned.notes, *notes],
        "training": {
            "method": recipe.blocks.method,
            "start": recipe.train.start,
            "steps": len(losses),
            "batch": recipe.train.batch,
            "samples": task.size(),
            "first_loss": losses[0] if losses else None,
            "last_loss": sum(last) / len(last) if last else None,
            "processes": fitted.processes,
        },
    }
