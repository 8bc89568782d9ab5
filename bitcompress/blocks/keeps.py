"""Which layers stay float, each with its reason."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from bitcompress.blocks.layers import float_layer
from bitcompress.blocks.policy import BlockPolicy
from bitcompress.errors import RecipeError
from bitcompress.graph.absorb import Surroundings
from bitcompress.graph.capture import Captured
from bitcompress.graph.site import Site

LAYERS = ("linear", "conv2d")


def check_patterns(captured: Captured, policy: BlockPolicy) -> None:
    """Raise RecipeError where a pattern of `keep` matches no layer."""
    names = [site.name for site in captured.sites]
    for pattern in policy.keep:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = difflib.get_close_matches(pattern, names, 1, 0.3)
            hint = f"; nearest name: {close[0]!r}" if close else ""
            raise RecipeError(f"keep: {pattern!r} matches none of {len(names)} layers{hint}")


def reason_to_keep(
    captured: Captured, site: Site, around: Surroundings, policy: BlockPolicy, tail: str
) -> str:
    """Why a site stays float; empty where it becomes a block.

    tail: what `tail_levels` says of it.
    """
    if site.refusal:
        return site.refusal
    if site.op not in LAYERS:
        return "a product of two activations: blocks are layers with weights"
    for pattern in policy.keep:
        if fnmatchcase(site.name, pattern):
            return f"kept float by the recipe ({pattern})"
    if around.conditions:
        return "sees the timestep or labels alone: embeddings stay float"
    ends = _at_an_end(around) if policy.first_last == "float" else ""
    return ends or _unfit(captured, site, around, policy) or tail


def _at_an_end(around: Surroundings) -> str:
    if around.opens:
        return "first layer: it meets the input"
    return "last layer: it makes the output" if around.closes else ""


def _unfit(captured: Captured, site: Site, around: Surroundings, policy: BlockPolicy) -> str:
    """Why a layer is not worth a block, or cannot bear one."""
    inputs, outputs, groups, kernel = sizes(captured, site)
    if groups > 1 and groups == inputs and not policy.depthwise:
        return f"depthwise: sums of {kernel} signs say too little and gain nothing"
    if min(inputs, outputs) < policy.min_channels:
        return f"{inputs} to {outputs} channels: fewer than {policy.min_channels} on one side"
    if around.gate:
        return "its output becomes a gate"
    if site.op == "conv2d" and around.pixels == 1 and kernel == 1:
        return "sees one pixel a channel: squeezes stay float"
    return ""


def sizes(captured: Captured, site: Site) -> tuple[int, int, int, int]:
    """Of a layer with weights: input channels, output channels, groups, taps of the kernel."""
    layer = float_layer(captured, site)
    weight = layer.weight
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    first, second, taps = int(weight.shape[0]), int(weight.shape[1]) * groups, weight[0, 0].numel()
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        return first, second, groups, taps
    return second, first, groups, taps


def tail_levels(
    sites: Sequence[Site], around: Mapping[str, Surroundings], levels: int
) -> dict[str, str]:
    """The layers on the way up of a UNet at its largest resolutions, with the reason to keep them.

    The way up begins behind the last layer of the smallest resolution. A layer that enlarges its
    input belongs to the level that it comes from.
    """
    pictures = [s for s in sites if around[s.name].size and s.op == "conv2d" and not s.refusal]
    areas = {s.name: around[s.name].pixels for s in pictures}
    if not levels or len(set(areas.values())) < 2:
        return {}
    lowest = min(areas.values())
    turn = max(i for i, s in enumerate(pictures) if areas[s.name] == lowest)
    largest = sorted(set(areas.values()), reverse=True)[:levels]
    found = {}
    for site in pictures[turn + 1 :]:
        enlarges = around[site.name].enlarged is not None or site.kind == "ConvTranspose2d"
        if areas[site.name] in largest and not enlarges:
            height, width = around[site.name].size
            found[site.name] = f"way up at {height}x{width}: one of the {levels} largest levels"
    return found
