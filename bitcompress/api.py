"""The whole walk in one screen: load, capture, rewrite, calibrate, tune, pack, measure, report.

Every step is public on its own (bitcompress.walk); nothing here branches on a method's name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitcompress import walk
from bitcompress.artifact import Source, layer_bytes, packed_bytes, round_to_stored
from bitcompress.artifact import load as load
from bitcompress.artifact import save as save
from bitcompress.budget import fit_budget
from bitcompress.data.calibration import packaged_calibration
from bitcompress.data.folders import PictureSet, open_pictures
from bitcompress.errors import GateError, NothingPacked, UsageError
from bitcompress.feed import BatchFeed, Feed, PictureFeed, synthetic_example
from bitcompress.graph.capture import private_copy
from bitcompress.graph.intercept import Rewritten
from bitcompress.measure.evaluate import Shown, evaluate
from bitcompress.measure.programs import program_row
from bitcompress.measure.report import build_report
from bitcompress.measure.speed import measure_speed
from bitcompress.measure.stages import Stages
from bitcompress.memory import keep_large_blocks
from bitcompress.models.load import Loaded, load_model
from bitcompress.models.probe import picture_scale
from bitcompress.parity import is_steady
from bitcompress.plan import coverage, mean_bits, nothing_packed
from bitcompress.recipe import Recipe
from bitcompress.train.place import check_device

Progress = Callable[[str, int, int], None]
MIN_PARITY_DB = 30.0
"""How close packed and simulated output must be. They are equal but for codes that flip at a tie:
one flip spreads through a network and may leave 40 dB; a wrong operator leaves less than 20."""


@dataclass
class Result:
    """A packed model and what it cost."""

    model: Rewritten
    """Takes what the original took, at any size it took, and runs packed."""
    report: dict[str, Any]
    recipe: Recipe
    source: Source
    edits: tuple[dict[str, Any], ...]
    float_model: nn.Module


@dataclass(frozen=True)
class Inspection:
    """What would become of a model; nothing is changed or written."""

    prepared: walk.Prepared
    recipe: Recipe
    source: Source

    def rows(self) -> list[dict[str, Any]]:
        """One dict a layer: name, op, widths, what would become of it, and why."""
        return [plan.row() for plan in self.prepared.plans]


def resolve(
    recipe: str | Path | Recipe = "default",
    bits: int | None = None,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of that name or file, with width, seed and dotted keys overridden.

    Raises: RecipeError for what does not exist, UsageError for 1 bit.
    """
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    if overrides:
        chosen = chosen.set(overrides)
    if bits is not None:
        chosen = chosen.set({"bits": bits}, "--bits")
    if seed is not None:
        chosen = chosen.set({"seed": seed}, "--seed")
    if chosen.bits < 2 and chosen.calibration.search != "sign":
        raise UsageError(
            "one bit needs binary blocks, not quantizers: use `bitcompress binarize`; quantize "
            "takes 2 to 8 bits, and --recipe sign shows what size and speed one bit would have"
        )
    return chosen


def inspect(
    model: nn.Module | str | Path,
    example_inputs: Any = None,
    *,
    bits: int | None = None,
    recipe: str | Path | Recipe = "default",
    overrides: Mapping[str, Any] | None = None,
) -> Inspection:
    """What a model holds, and what would be compressed, what not, and why; writes nothing."""
    chosen = resolve(recipe, bits, overrides=overrides)
    net, source = opened(model)
    example = example_inputs if example_inputs is not None else example_for(source)
    return Inspection(walk.prepare(net, example, chosen), chosen, source)


def quantize(
    model: nn.Module | str | Path,
    example_inputs: Any = None,
    *,
    bits: int | None = None,
    recipe: str | Path | Recipe = "default",
    data: Iterable[Any] | str | Path | PictureSet | None = None,
    seed: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    quick: bool = False,
    min_coverage: float = 0.0,
    target_bytes: int | None = None,
    progress: Progress | None = None,
    workdir: Path | None = None,
    resume: bool = False,
    source: Source | None = None,
) -> Result:
    """A packed low-bit twin of a model, and a report of what it cost; the model is left alone.

    data: None (a small packaged set, for models of pictures), a folder, a PictureSet, or batches
    (tensors, tuples of arguments, dicts of keywords) of which the first 64 are kept.
    quick: the recipe's quick_steps; steps that `overrides` name win.
    Returns: a Result; `save` writes it to a folder.
    Warns: NothingPacked with the reasons, where not one layer could be packed.
    Raises: LoadError, CaptureError, RecipeError, DataError; GateError if the packed model does not
    compute what the simulated one does.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    check_device(device)
    keep_large_blocks()
    chosen = resolve(recipe, bits, seed, overrides)
    said = overrides or {}
    if quick and "train.steps" in said and "train.quick_steps" not in said:
        chosen = chosen.set({"train.quick_steps": said["train.steps"]})
    torch.manual_seed(chosen.seed)
    stages = Stages()
    with stages("load"):
        net, found = opened(model)
        teacher = private_copy(net)
        source = source or seen(found, teacher, data)
        feed = _feed(data, chosen, source)
    example = example_inputs if example_inputs is not None else next(iter(feed.calibration()))
    with stages("capture"):
        prepared = walk.prepare(teacher, example, chosen)
        walk.check_coverage(prepared, min_coverage)
        if target_bytes is not None:
            # No layer may turn wider or float afterwards: it would not fit any more.
            chosen = chosen.set({"protect.float_share": 0.0, "protect.loudest": False})
            prepared = _fitted(prepared, chosen, source, target_bytes)
    with stages("calibrate"):
        student, prepared = walk.put_on_grids(prepared, chosen, feed, progress)
        walk.check_coverage(prepared, min_coverage)
    with stages("train"):
        fitted = walk.tune_student(
            student, teacher, chosen, feed, quick=quick, device=device, folder=workdir,
            resume=resume, fingerprint=source.sha256, progress=progress,
        )  # fmt: skip
    with stages("pack"):
        sqnr = walk.layer_sqnr(student, [example])
        peak = source.image_range if source.scale is not None else None
        near = walk.pack(student, prepared.plans, example, peak)
        round_to_stored(student)
    if not near.psnr_db >= MIN_PARITY_DB:
        steady = is_steady(teacher, example)
        raise GateError(
            f"packed and simulated output differ by {near.psnr_db:.1f} dB, at least "
            f"{MIN_PARITY_DB:.0f} dB is the law; "
            + ("please report this model" if steady else
               "the float model itself gives another output when it runs again on the same input: "
               "make its forward depend on its inputs alone")
        )  # fmt: skip
    nothing = nothing_packed(prepared.plans)
    if nothing:
        warnings.warn(nothing, NothingPacked, stacklevel=2)
    report = build_report(
        model=student,
        float_model=net,
        captured=prepared.captured,
        plans=prepared.plans,
        sqnr=sqnr,
        stored=layer_bytes(student),
        packed_bytes=packed_bytes(student, source, prepared.edits, chosen.metadata.name),
        coverage=prepared.coverage,
        simulated=coverage(prepared.plans, "simulated"),
        mean_bits=mean_bits(prepared.plans),
        extra={
            "recipe": chosen.metadata.name,
            "bits_asked": chosen.bits,
            "quick": quick,
            "seed": chosen.seed,
            "model": source.to_json(),
            "data": feed.description,
            "calibration_pictures": list(feed.seen),
            "notes": [*prepared.notes, *filter(None, [nothing])],
            "parity": {"psnr_db": near.psnr_db, "changed_share": near.changed_share},
            "training": {
                "method": chosen.train.method,
                "steps": len(fitted.losses),
                "first_loss": fitted.losses[0] if fitted.losses else None,
                "last_loss": _tail_mean(fitted.losses),
                "processes": fitted.processes,
            },
            "program": program_row(student, example),
            "stages": stages.rows,
        },
    )
    return Result(student, report, chosen, source, prepared.edits, net)


def _fitted(prepared: walk.Prepared, recipe: Recipe, source: Source, target: int) -> walk.Prepared:
    """The same with widths whose packed file has at most `target` bytes."""

    def size(student: Rewritten) -> int:
        round_to_stored(student)
        return packed_bytes(student, source, prepared.edits, recipe.metadata.name)

    plans = fit_budget(
        prepared.captured.net, prepared.plans, target,
        lambda plans: walk.weigh(prepared, plans, recipe, size),
    )  # fmt: skip
    return replace(prepared, plans=plans)


def measure(
    result: Result,
    sets: Iterable[PictureSet] = (),
    *,
    example_inputs: Any = None,
    repeats: int = 3,
    progress: Progress | None = None,
) -> list[Shown]:
    """Fill quality and speed of a result's report: float and packed side by side, in one run.

    Returns: the first pictures of the first set, for the report's picture sheet.
    """
    source, stages = result.source, Stages()
    shown: list[Shown] = []
    with stages("measure"):
        if source.scale is not None:
            for pictures in sets:
                figures, first = evaluate(
                    result.model, result.float_model, pictures, scale=source.scale,
                    image_range=source.image_range, progress=progress,
                )  # fmt: skip
                result.report["quality"][pictures.name] = figures
                shown = shown or first
        example = example_inputs if example_inputs is not None else example_for(source)
        result.report["speed"] = measure_speed(
            result.float_model, result.model, example, repeats=repeats
        )
    result.report["stages"] += stages.rows
    return shown


def _tail_mean(losses: list[float]) -> float | None:
    """The mean of the last losses: one batch says little."""
    last = losses[-20:]
    return sum(last) / len(last) if last else None


def analyze(
    model: nn.Module | str | Path,
    example_inputs: Any = None,
    *,
    data: Iterable[Any] | str | Path | PictureSet | None = None,
    widths: tuple[int, ...] = (8, 4, 3, 2),
    recipe: str | Path | Recipe = "default",
    progress: Progress | None = None,
    source: Source | None = None,
) -> list[dict[str, Any]]:
    """How much each layer suffers at each width, all else on clean inputs of its own.

    Returns: one dict a layer and width: name, op, bits, sqnr_db, macs.
    """
    net, found = opened(model)
    source = source or seen(found, net, data)
    rows: list[dict[str, Any]] = []
    for number, width in enumerate(widths):
        chosen = resolve(recipe, width, overrides={"protect.share": 0.0})
        feed = _feed(data, chosen, source)
        example = example_inputs if example_inputs is not None else next(iter(feed.calibration()))
        prepared = walk.prepare(net, example, chosen)
        plans = tuple(
            p if p.site.refusal else replace(p, keep="packed", weight_bits=width, act_bits=width)
            for p in prepared.plans
        )
        student, _ = walk.put_on_grids(replace(prepared, plans=plans), chosen, feed)
        for name, value in walk.layer_sqnr(student, [example], clean=True).items():
            site = prepared.captured.site(name)
            rows.append({"name": name, "op": site.op, "bits": width, "sqnr_db": value,
                         "macs": site.macs})  # fmt: skip
        if progress is not None:
            progress(f"analyze at {width} bits", number + 1, len(widths))
    return rows


def opened(model: nn.Module | str | Path) -> tuple[nn.Module, Source]:
    """The float model of an instance or a file, and where it comes from."""
    if isinstance(model, Rewritten):
        raise UsageError("the model is packed already: give the float model that it was made from")
    if isinstance(model, nn.Module):
        found = Source(
            arch="", config={}, task=None, scale=getattr(model, "scale", None),
            image_range=float(getattr(model, "image_range", 1.0)), sha256="",
            class_name=_class_name(model),
        )  # fmt: skip
        return model, found
    return open_source(load_model(Path(model)))


def seen(source: Source, net: nn.Module, data: Any) -> Source:
    """The same, with what a run of a live network tells where the data are pictures or none.

    Files were looked at when they were loaded; batches say by themselves what the network takes.
    """
    live = not source.arch and source.scale is None and source.task is None
    if not live or not (data is None or isinstance(data, str | Path | PictureSet)):
        return source
    scale = picture_scale(private_copy(net))
    return source if scale is None else replace(source, scale=scale, task="sr")


def open_source(loaded: Loaded) -> tuple[nn.Module, Source]:
    """The model of a loaded file, and the record from which its skeleton can be rebuilt."""
    return loaded.model, Source(
        arch=loaded.arch, config=dict(loaded.config), task=loaded.task, scale=loaded.scale,
        image_range=loaded.image_range, sha256=loaded.sha256,
        class_name=_class_name(loaded.model),
    )  # fmt: skip


def _class_name(model: nn.Module) -> str:
    return f"{type(model).__module__}:{type(model).__qualname__}"


def example_for(source: Source) -> Any:
    """A seeded input of a known model. Raises: UsageError for one that is not known."""
    if source.task == "classify":
        return synthetic_example((1, 3, 32, 32), source.image_range)
    if source.scale is None:
        raise UsageError(
            "the model's inputs are not known: give example_inputs (--input NAME=1x3x64x64)"
        )
    return synthetic_example((1, 3, 64, 64), source.image_range)


def _feed(
    data: Iterable[Any] | str | Path | PictureSet | None, recipe: Recipe, source: Source
) -> Feed:
    scale = source.scale or 1
    if data is None:
        if source.scale is None and source.task is None:
            raise UsageError("data is needed: batches that the model takes, for bounds to be found")
        data = open_pictures(packaged_calibration(), scale=scale)
    if isinstance(data, str | Path):
        data = open_pictures(Path(data), scale=scale)
    if isinstance(data, PictureSet):
        return PictureFeed(
            data, recipe, scale=scale, image_range=source.image_range, seed=recipe.seed
        )
    return BatchFeed(data)
