"""The walk of a model, stage by stage: capture, plan, insert, calibrate, tune, pack.

Each stage is a public function on its own; `api.quantize` is these in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.calibrate import SEARCHES
from bitcompress.calibrate import calibrate as set_bounds
from bitcompress.calibrate.equalize import equalize
from bitcompress.calibrate.loud import loud_layers
from bitcompress.calibrate.run import check_weights, quantizers, run_watched, second_run
from bitcompress.calibrate.sensitivity import sensitivities
from bitcompress.errors import CaptureError
from bitcompress.feed import Feed
from bitcompress.graph.capture import (
    Captured,
    as_inputs,
    capture,
    capture_tree,
    check_alive,
    private_copy,
)
from bitcompress.graph.fold import fold_batchnorm
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.plain import first_edits
from bitcompress.graph.rewrite import Plan, insert, pack_layers, quant_layers
from bitcompress.graph.swap import stand_in
from bitcompress.layers import QuantConv2d, QuantLinear, QuantMatmul
from bitcompress.parity import Parity, compared, parity, run_on_codes
from bitcompress.plan import coverage, make_plans, nothing_packed, widen, widens
from bitcompress.program import use_programs
from bitcompress.quant.spec import Bounds
from bitcompress.quant.uniform import UniformQuantizer
from bitcompress.recipe import Recipe
from bitcompress.train import FitConfig, FitResult, TuneConfig, tune
from bitcompress.train.place import own_device, placed, sent

Progress = Callable[[str, int, int], None]

SENSITIVITY_RUNS = 32
"""Runs whose mean says how far a layer moves the output: enough to rank the loudest."""


@dataclass(frozen=True)
class Prepared:
    """A model that has been captured and planned, and what was done to its tree on the way."""

    captured: Captured
    plans: tuple[Plan, ...]
    edits: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def coverage(self) -> float:
        """The share of multiply-accumulates that will run on codes."""
        return coverage(self.plans)


def prepare(model: nn.Module, example: Any, recipe: Recipe) -> Prepared:
    """Capture a private copy of a model and plan every place of it; the model is left alone.

    Raises: CaptureError if it fails on the example; RecipeError if a rule matches nothing.
    """
    check_alive(model)
    net = private_copy(model)
    edits = first_edits(net)
    captured = capture(net, example) if example is not None else capture_tree(net)
    notes = list(captured.notes)
    if recipe.fold_batchnorm and captured.recording is not None:
        folded, refused = fold_batchnorm(net, captured.recording)
        notes += [f"{name} not folded: {reason}" for name, reason in refused]
        if folded:
            edits.append({"edit": "identity", "names": folded})
    return Prepared(captured, make_plans(captured, recipe), tuple(edits), tuple(notes))


def check_coverage(prepared: Prepared, least: float) -> None:
    """Raise CaptureError if less of the work than `least` would run on codes."""
    if prepared.coverage < least:
        worst = [p for p in prepared.plans if p.keep != "packed"]
        worst.sort(key=lambda p: -p.site.macs)
        named = "; ".join(f"{p.site.name} ({p.reason})" for p in worst[:5])
        raise CaptureError(
            f"coverage is {100 * prepared.coverage:.1f} % of the multiply-accumulates, "
            f"{100 * least:.1f} % was asked for; "
            + (nothing_packed(prepared.plans) or f"largest of the others: {named}")
        )


def weigh(
    prepared: Prepared, plans: Sequence[Plan], recipe: Recipe, size: Callable[[Rewritten], int]
) -> int:
    """What `size` says of the packed model that these plans make; its numbers are random.

    The model is packed on a copy with bounds out of the air: widths alone decide the bytes.
    """
    random = torch.Generator().manual_seed(0)
    student = insert(replace(prepared.captured, net=private_copy(prepared.captured.net)), plans)
    for module in student.modules():
        if isinstance(module, UniformQuantizer):
            low, width = torch.rand(2, *module.lower.shape, generator=random)
            module.set_bounds(Bounds(low, low + 1 + width))
            module.shortest = 9999 if module.shares else 0
        elif recipe.calibration.equalize and isinstance(module, QuantLinear | QuantConv2d):
            channels = module.weight.shape[1]
            if isinstance(module, QuantConv2d):
                channels *= module.geometry.groups
            module.stretch = 1 + torch.rand(channels, generator=random).half().float()
            if isinstance(module, QuantLinear):
                module.shift = torch.rand(channels, generator=random).half().float()
    pack_layers(student, frozenset(plan.site.name for plan in plans if plan.keep == "simulated"))
    return size(student)


def put_on_grids(
    prepared: Prepared, recipe: Recipe, feed: Feed, progress: Progress | None = None
) -> tuple[Rewritten, Prepared]:
    """Insert trainable layers on grids and find their bounds.

    Returns: the student, and the plans as carried out: loud ones of the layers kept wide are float.
    Raises: DataError naming the layer whose weights or inputs are not finite.
    """
    wide = _wide_layers(prepared, recipe)
    student = insert(prepared.captured, prepared.plans)
    if not any(plan.quantized for plan in prepared.plans):
        return student, prepared
    check_weights(quant_layers(student))
    config = recipe.calibration
    if config.equalize:
        names = [plan.site.name for plan in prepared.plans if plan.quantized]
        equalize(student, feed.calibration(), names, strength=config.equalize)

    def search(only: Sequence[str] | None = None) -> None:
        set_bounds(
            student,
            feed.calibration(),
            SEARCHES[config.search],
            weight_search=SEARCHES[config.weight_search or config.search],
            producers={plan.site.name: plan.site.producers for plan in prepared.plans},
            only=only,
            progress=progress,
        )

    search()
    if widens(recipe):
        prepared, wider = _widen_loudest(student, prepared, recipe, feed)
        if wider:
            search(wider)
    return student, _free_loud(student, prepared, wide, recipe, feed)


def _widen_loudest(
    student: Rewritten, prepared: Prepared, recipe: Recipe, feed: Feed
) -> tuple[Prepared, tuple[str, ...]]:
    """Give the rest of the protected share to the layers that move the output most."""
    layers = quant_layers(student)
    inputs = (feed.training(step, 0, 1)[0][1] for step in range(SENSITIVITY_RUNS))
    errors = sensitivities(student, layers, inputs, recipe.seed)
    plans, wider = widen(prepared.plans, errors, recipe)
    for name in wider:
        for quantizer in quantizers(layers[name]):
            quantizer.spec = replace(quantizer.spec, bits=recipe.protect.bits)
    return replace(prepared, plans=plans), wider


def _wide_layers(prepared: Prepared, recipe: Recipe) -> dict[str, nn.Module]:
    """The float modules of the layers that protection keeps wide, to be put back if need be."""
    if not recipe.protect.float_share:
        return {}
    net = prepared.captured.net
    return {
        plan.site.name: net.get_submodule(plan.site.name)
        for plan in prepared.plans
        if plan.quantized and plan.site.tier == "module"
        and min(plan.weight_bits, plan.act_bits) > recipe.bits
    }  # fmt: skip


def _free_loud(
    student: Rewritten,
    prepared: Prepared,
    wide: dict[str, nn.Module],
    recipe: Recipe,
    feed: Feed,
) -> Prepared:
    """Put back the float module of each wide layer whose own error is too large a share."""
    layers = quant_layers(student)
    candidates = {name: layers[name] for name in wide if name in layers}
    share = recipe.protect.float_share
    loud = loud_layers(student, candidates, next(iter(feed.calibration())), share)
    for name in loud:
        student.net = stand_in(student.net, layers[name], wide[name])
    reason = (
        f"float: at {recipe.protect.bits} bits it alone made over {100 * share:g} % of the error"
    )
    plans = tuple(
        replace(plan, keep="float", reason=f"{plan.reason}; {reason}")
        if plan.site.name in loud else plan
        for plan in prepared.plans
    )  # fmt: skip
    return replace(prepared, plans=plans)


def tune_student(
    student: Rewritten,
    teacher: nn.Module,
    recipe: Recipe,
    feed: Feed,
    *,
    quick: bool = False,
    device: str = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    fingerprint: str = "",
    progress: Progress | None = None,
) -> FitResult:
    """Train bounds, or bounds and weights, as the recipe says; nothing where nothing has grids."""
    steps = recipe.steps(recipe.bits, quick)
    if recipe.train.method == "none" or not steps or not quant_layers(student):
        return FitResult()
    train = recipe.train
    config = TuneConfig(
        train.method, train.lr_bounds, train.lr_weights, train.relative_bounds, train.loss,
        train.feature_weight, train.taps,
    )  # fmt: skip
    fit = FitConfig(
        steps, train.betas, train.schedule, train.warmup, train.save_every,
        f"{fingerprint}|{feed.fingerprint}|{recipe.to_yaml()}",
    )  # fmt: skip
    place = own_device(device)
    with placed([student, teacher], place):
        return tune(
            student, teacher, sent(feed.training, place), config, fit,
            device=device, folder=folder, resume=resume, progress=progress,
        )  # fmt: skip


def layer_sqnr(
    student: Rewritten, inputs: Iterable[Any], *, clean: bool = False
) -> dict[str, float]:
    """What the grids cost each layer, in dB: its output with and without them on the same input.

    The inputs of a layer are those of the quantized model, or with `clean` those of the float one.
    Units: dB of signal to quantization noise; higher is better.
    """
    layers = quant_layers(student)
    sums = {name: [0.0, 0.0] for name in layers}
    hooks = [
        layer.register_forward_hook(_comparer(layer, sums[name], not clean))
        for name, layer in layers.items()
    ]
    run_watched(student, inputs, hooks, on=not clean)
    return {
        name: 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf
        for name, (signal, noise) in sums.items()
    }


def _comparer(layer: nn.Module, sums: list[float], quantized: bool) -> Any:
    """A hook that adds up the power of a layer's output, and what its grids change in it."""

    def compare(out: Tensor, other: Tensor) -> None:
        exact = other if quantized else out.detach()
        sums[0] += float(exact.double().square().sum())
        sums[1] += float((other - out.detach()).double().square().sum())

    return second_run(quantizers(layer), on=not quantized, then=compare)


def pack(
    student: Rewritten, plans: Sequence[Plan], example: Any, peak: float | None = None
) -> Parity:
    """Replace every layer on grids by its packed twin, and say how far that moved the output.

    The simulated side works in float64 on what the codes stand for, so that its own rounding does
    not flip codes; `peak` is the range of the output, found from it when not given.
    """
    args, kwargs = as_inputs(example)
    layers = [m for layer in quant_layers(student).values() for m in layer.modules()]
    exact = [m for m in layers if isinstance(m, QuantLinear | QuantConv2d | QuantMatmul)]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for layer in exact:
            layer.exact = True
        student.on_codes = bool(layers)
        torch.manual_seed(0)  # a forward that draws random numbers draws the same ones twice
        simulated = compared(run_on_codes(student, args, kwargs))
        for layer in exact:
            layer.exact = False
        keep = frozenset(plan.site.name for plan in plans if plan.keep == "simulated")
        pack_layers(student, keep)
        student.requires_grad_(False)  # codes have no gradients
        torch.manual_seed(0)
        packed = compared(run_on_codes(student, args, kwargs))
    use_programs(student)
    return parity(simulated, packed, peak)
