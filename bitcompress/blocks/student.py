"""From a float model to one of binary blocks, and from that to its packed twin.

The user's forward stays: layers are swapped by name, a batch norm that a block took over becomes
Identity, calls of activations and enlargements are answered by what they are given.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from bitcompress.blocks.layers import Layer, float_layer
from bitcompress.blocks.made import made, made_end
from bitcompress.blocks.parts import Parts
from bitcompress.blocks.plan import (
    BlockPlan,
    block_plans,
    check_policy,
    check_something,
    check_timed,
)
from bitcompress.blocks.policy import BlockPolicy
from bitcompress.blocks.timestep import clock_for, timestep
from bitcompress.errors import NotPackable
from bitcompress.graph.capture import Captured, as_inputs, capture, check_alive, private_copy
from bitcompress.graph.intercept import Call, Rewritten, strip_parameter
from bitcompress.graph.plain import first_edits
from bitcompress.graph.pointwise import Absorbed
from bitcompress.graph.swap import stand_in
from bitcompress.graph.timed import TimeInput, set_by
from bitcompress.layers.binary import BinaryBlock, Clock
from bitcompress.parity import Parity, compared, parity
from bitcompress.program import use_programs

UNTRAINED = "blocks stand where layers stood: without training the answers of the model mean little"


@dataclass(frozen=True)
class PreparedBlocks:
    """A model that has been captured and planned, and what was done to its tree on the way."""

    captured: Captured
    plans: tuple[BlockPlan, ...]
    policy: BlockPolicy
    edits: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    time: TimeInput | None = None
    clock: Clock | None = None

    @property
    def coverage(self) -> float:
        """The share of multiply-accumulates that will run on bits."""
        total = sum(plan.site.macs for plan in self.plans)
        done = sum(plan.site.macs for plan in self.plans if plan.keep == "packed")
        return done / total if total else 0.0


@dataclass(frozen=True)
class Origin:
    """What a block stands for: the float layer, with the norm and activation it took over."""

    layer: Layer
    norm: nn.Module | None
    activation: nn.Module | None
    form: str


@dataclass
class Origins:
    """The origins of a student's blocks by site name, until it is settled."""

    found: dict[str, Origin] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Origins:
        return Origins(dict(self.found))


def prepare_binary(model: nn.Module, example: Any, policy: BlockPolicy) -> PreparedBlocks:
    """Capture a private copy of a model and plan every place of it; the model is left alone.

    Raises: CaptureError if it fails on the example; RecipeError if the policy does not fit it;
            NotPackable, with the reasons, if no layer can become a block.
    """
    check_policy(policy)
    check_alive(model)
    time = timestep(model, policy)
    clock = clock_for(model, policy)
    net = private_copy(model)
    edits = first_edits(net)
    captured = capture(net, example)
    plans = block_plans(captured, policy, time.name if time is not None else "")
    check_something(plans)
    check_timed(plans, policy)
    norms = list(dict.fromkeys(plan.norm for plan in plans if plan.norm))
    if norms:
        edits.append({"edit": "identity", "names": norms})
    notes = (*captured.notes, UNTRAINED)
    return PreparedBlocks(captured, plans, policy, tuple(edits), notes, time, clock)


def insert_blocks(prepared: PreparedBlocks) -> Rewritten:
    """Put trainable blocks where the plans say so; the net of `prepared.captured` is edited.

    Raises: NotPackable naming the layer that no block can stand for.
    """
    captured = prepared.captured
    model = Rewritten(captured.net)
    model.origins = origins = Origins()
    swapped: dict[int, nn.Module] = {}
    for plan in prepared.plans:
        if plan.spec is None:
            continue
        layer = float_layer(captured, plan.site)
        unit = swapped.get(id(layer))
        if unit is None:
            unit = _unit(model, plan, layer, prepared.clock)
            swapped[id(layer)] = unit
            origins.found[plan.site.name] = _origin(model, plan, layer)
        _place(model, plan, layer, unit)
        if plan.norm:
            norm = model.net.get_submodule(plan.norm)
            model.net = stand_in(model.net, norm, nn.Identity())
        _take_calls(model, plan)
        _take_end(model, plan, layer)
    if prepared.clock is not None and prepared.time is not None:
        set_by(model, prepared.clock, prepared.time)
    model.on_codes = True
    return model.eval()


def _unit(model: Rewritten, plan: BlockPlan, layer: Layer, clock: Clock | None) -> nn.Module:
    norm = model.net.get_submodule(plan.norm) if plan.norm else None
    behind = plan.around.activation
    activation = behind.layer if plan.takes_activation and behind is not None else None
    try:
        return made(layer, plan, norm, activation, clock)
    except NotPackable as error:
        raise NotPackable(
            f"{plan.site.name} cannot become a block ({error}): keep it float (blocks.keep)"
        ) from error


def _origin(model: Rewritten, plan: BlockPlan, layer: Layer) -> Origin:
    norm = copy.deepcopy(model.net.get_submodule(plan.norm)) if plan.norm else None
    behind = plan.around.activation
    activation = behind.layer if plan.takes_activation and behind is not None else None
    return Origin(layer, norm, activation, plan.form.kind)


def _place(model: Rewritten, plan: BlockPlan, layer: Layer, unit: nn.Module) -> None:
    """Let a block stand where its layer stood."""
    site = plan.site
    if site.tier == "module":
        model.net = stand_in(model.net, layer, unit)
        return
    if isinstance(unit, BinaryBlock):
        unit.stands_for = tuple(layer.weight.shape)  # type: ignore[assignment]
    for name in filter(None, (site.weight, site.bias)):
        strip_parameter(model.net, name)
    model.replace_call(Call(*site.key), site.part, site.name, unit)


def _take_calls(model: Rewritten, plan: BlockPlan) -> None:
    """Answer the calls that a block took over."""
    taken = [plan.around.activation] if plan.takes_activation else []
    taken += [plan.around.enlarged] if plan.form.kind == "up" else []
    for behind in taken:
        for call in behind.calls if behind is not None else ():
            model.replace_call(call, "", _name(call), Absorbed())


def _take_end(model: Rewritten, plan: BlockPlan, layer: Layer) -> None:
    """Answer the calls of the activation behind the model's own sum: in all runs by one module."""
    ends = plan.around.ends
    if not plan.takes_end or ends is None or ends.layer is None or plan.spec is None:
        return
    module = made_end(plan.spec, layer, ends.layer, normed=bool(plan.norm))
    for call in ends.calls:
        if call not in model.calls:
            model.replace_call(call, "", _name(call), module)


def _name(call: Call) -> str:
    return f"{call.owner}@{call.kind}.{call.ordinal}"


def blocks_of(model: nn.Module) -> dict[str, BinaryBlock]:
    """The trainable blocks of a student by name, also each of those that one layer became."""
    return {name: block for name, block in model.named_modules() if isinstance(block, BinaryBlock)}


def units_of(model: Rewritten) -> Iterator[tuple[str, nn.Module]]:
    """What stands in the place of each layer: a block, or the parts that it became."""
    inside: set[int] = set()
    called = ((key.replace("/", "."), module) for key, module in model.products.items())
    for name, module in (*model.net.named_modules(), *called):
        if isinstance(module, BinaryBlock | Parts) and id(module) not in inside:
            inside.update(id(part) for part in module.modules())
            yield name, module


def pack_blocks(model: Rewritten, example: Any = None) -> Parity | None:
    """Replace every block of a student by its packed twin, in place.

    Returns: how far that moved the output on the example, which is not at all; None without one.
    Raises: NotPackable naming the block that has no twin.
    """
    model.eval()
    trained = None if example is None else _output(model, example)
    for name, block in blocks_of(model).items():
        try:
            packed = block.pack()
        except NotPackable as error:
            raise NotPackable(f"{name.removeprefix('net.')}: {error}") from error
        _replace(model, block, packed)
    model.origins = None
    model.requires_grad_(False)
    packed_output = None if example is None else _output(model, example)
    use_programs(model)
    if trained is None or packed_output is None:
        return None
    return parity(trained, packed_output, None)


def _replace(model: Rewritten, old: nn.Module, new: nn.Module) -> None:
    for key, module in model.products.items():
        if module is old:
            model.products[key] = new
    model.net = stand_in(model.net, old, new)
    for unit in model.products.values():
        stand_in(unit, old, new)


def _output(model: Rewritten, example: Any) -> Any:
    args, kwargs = as_inputs(example)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a forward that draws random numbers draws the same ones twice
        return compared(model(*args, **kwargs))
