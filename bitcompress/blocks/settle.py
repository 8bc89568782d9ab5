"""Before training: thresholds, gains and norms of all blocks from calibration data.

One run of the float model writes down what each layer gives; one run of the student then settles
block after block, each on what the settled ones before it give, so errors do not add up unseen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bitcompress.blocks.cuts import by_channel, opened, settle_cut
from bitcompress.blocks.fit import Wanted, fit
from bitcompress.blocks.parts import Parts
from bitcompress.blocks.student import Origin, units_of
from bitcompress.errors import DataError, UsageError
from bitcompress.graph.capture import as_inputs
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.record import Inputs
from bitcompress.layers.binary import BinaryBlock
from bitcompress.train import Progress


@dataclass(frozen=True)
class Settled:
    """What settling found, by block."""

    explained: Mapping[str, float]
    """The share of the float layer's variance that a block gives, at most 1; of trained starts."""


def settle(
    student: Rewritten,
    batches: Iterable[Any],
    trained: bool = True,
    progress: Progress | None = None,
) -> Settled:
    """Set thresholds, input gains, norms and shifts of a student's blocks on data, in place.

    trained: whether the weights are those of a trained model, which the blocks shall stay near;
    else only the input gains are set, and only in powers of two. progress: (what, done, total).
    Raises: UsageError for a student that has no origins any more; DataError without batches, or
            naming the layer whose inputs are not finite.
    """
    inputs = joined([as_inputs(batch) for batch in batches])
    if student.origins is None:
        raise UsageError("this student has been settled or packed: insert its blocks anew")
    was = student.training
    student.eval()
    wanted = _wanted(student, inputs) if trained else {}
    explained: dict[str, float] = {}
    with torch.no_grad(), _hooked(student, wanted, explained, trained=trained, progress=progress):
        student(*inputs[0], **inputs[1])
    student.origins = None
    student.train(was)
    return Settled(explained)


def joined(batches: list[Inputs]) -> Inputs:
    """Several batches as one; where they do not fit together, the first."""
    if not batches:
        raise DataError("blocks are settled on data: give at least one batch")
    first_args, first_kwargs = batches[0]
    try:
        args = tuple(_cat(list(each)) for each in zip(*(b[0] for b in batches), strict=True))
        kwargs = {key: _cat([b[1][key] for b in batches]) for key in first_kwargs}
    except (RuntimeError, ValueError, KeyError):
        return first_args, first_kwargs
    return args, kwargs


def _cat(values: list[Any]) -> Any:
    if all(isinstance(v, Tensor) and v.dim() for v in values):
        return torch.cat(values)
    return values[0]


# ---- The float model ----------------------------------------------------------------------------


def _wanted(student: Rewritten, inputs: Inputs) -> dict[int, Wanted]:
    """What each block should give, by its id, from one run of the float model."""
    found: dict[int, Wanted] = {}
    with contextlib.ExitStack() as stack, torch.no_grad():
        for name, unit in units_of(student):
            origin = student.origins.found.get(name)
            if origin is not None:
                stack.enter_context(_as_float(unit, origin, found))
        student(*inputs[0], **inputs[1])
    return found


@contextlib.contextmanager
def _as_float(unit: nn.Module, origin: Origin, found: dict[int, Wanted]) -> Iterator[None]:
    """While this is open a unit computes what the float model did, and notes it the first time."""

    def forward(x: Tensor) -> Tensor:
        layer = origin.layer.to(x.device)
        wide = origin.form == "up" and isinstance(layer, nn.Conv2d)
        before: Tensor = layer(F.interpolate(x, scale_factor=2.0, mode="nearest") if wide else x)
        if origin.norm is not None:
            before = origin.norm.to(x.device)(before)
        after = before if origin.activation is None else origin.activation.to(x.device)(before)
        _note(unit, origin, x, before, after, found)
        return after

    unit.__dict__["forward"] = forward
    try:
        yield
    finally:
        del unit.__dict__["forward"]


def _note(
    unit: nn.Module, origin: Origin, x: Tensor, before: Tensor, after: Tensor,
    found: dict[int, Wanted],
) -> None:  # fmt: skip
    if isinstance(unit, BinaryBlock):
        if id(unit) not in found:
            # A block without an activation has let go the one behind it.
            end = before if unit.activation is None else after
            found[id(unit)] = Wanted(_picked(unit, before), _picked(unit, end))
        return
    assert isinstance(unit, Parts)
    for part, target in zip(unit.parts, _shares(unit, origin, x, before), strict=True):
        assert isinstance(part, BinaryBlock)
        if id(part) not in found:
            picked = _picked(part, target)
            found[id(part)] = Wanted(picked, picked)


def _picked(block: BinaryBlock, y: Tensor) -> Tensor:
    return by_channel(opened(block, y), block.axis)


def _shares(unit: Parts, origin: Origin, x: Tensor, y: Tensor) -> list[Tensor]:
    """What each part should give for the float layer's y to come out."""
    count = len(unit.parts)
    if unit.form in ("split", "wide"):
        return list(y.chunk(count, -1 if unit.form == "split" else -3))
    if unit.form == "up":
        return list(F.pixel_unshuffle(y, 2).chunk(count, -3))
    if unit.form == "down":
        return [F.pixel_shuffle(y, 2) / count] * count
    shares = []
    for part, given in zip(unit.parts, unit.spread(x), strict=True):
        assert isinstance(part, BinaryBlock)
        look = part.core.look
        shares.append(
            F.conv2d(given, part.core.weight, None, look.stride, look.padding, look.dilation)
        )
    if origin.layer.bias is not None:
        shares[0] = shares[0] + origin.layer.bias.view(-1, 1, 1)
    return shares


# ---- The student --------------------------------------------------------------------------------


@contextlib.contextmanager
def _hooked(
    student: Rewritten, wanted: Mapping[int, Wanted], explained: dict[str, float], *, trained: bool,
    progress: Progress | None,
) -> Iterator[None]:  # fmt: skip
    """While this is open each block is settled before its first run."""
    names = {id(m): name for name, m in student.named_modules() if isinstance(m, BinaryBlock)}
    done: set[int] = set()

    def hook(block: nn.Module, args: tuple[Any, ...]) -> None:
        if id(block) in done:
            return
        done.add(id(block))
        if progress is not None:
            progress("settle blocks", len(done), len(blocks))
        assert isinstance(block, BinaryBlock)
        x: Tensor = args[0]
        if not bool(torch.isfinite(x).all()):
            raise DataError(f"what {names[id(block)]} is given holds NaN or infinite numbers")
        settle_cut(block, x, trained=trained)
        if id(block) in wanted:
            explained[names[id(block)].removeprefix("net.")] = fit(block, x, wanted[id(block)])

    blocks = [m for m in student.modules() if isinstance(m, BinaryBlock)]
    handles = [block.register_forward_pre_hook(hook) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
