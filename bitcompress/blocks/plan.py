"""From a policy and a captured model to one plan a place: which block it becomes, or why none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from bitcompress.blocks import told
from bitcompress.blocks.forms import Form, Kind, form_of, is_same
from bitcompress.blocks.keeps import check_patterns, reason_to_keep, tail_levels
from bitcompress.blocks.layers import Layer, float_layer
from bitcompress.blocks.policy import BlockPolicy
from bitcompress.errors import NotPackable, RecipeError
from bitcompress.graph.absorb import Surroundings, View, feeds_products, surroundings, view_of
from bitcompress.graph.capture import Captured
from bitcompress.graph.rewrite import State
from bitcompress.graph.site import Site
from bitcompress.layers.binary import ENDS, METHODS, BlockSpec, Method, stands


@dataclass(frozen=True)
class BlockPlan:
    """What shall become of one site."""

    site: Site
    around: Surroundings
    keep: State = "float"
    reason: str = ""
    """Why it stays float, or is another block than the method's own."""
    spec: BlockSpec | None = None
    form: Form = Form()
    norm: str = ""
    """The batch norm that the block takes over."""
    takes_activation: bool = False
    """Whether the block takes over the activation behind it."""
    takes_end: bool = False
    """Whether the activation behind the model's own sum becomes one that learns, or goes."""
    became: str = ""

    @property
    def timed(self) -> bool:
        """Whether its block will have tables for time groups."""
        if self.spec is None:
            return False
        own = self.spec.rule.activation
        active = own == "taa" or (own == "prelu" and self.takes_activation)
        return max(self.spec.threshold_groups, self.spec.activation_groups if active else 1) > 1

    @property
    def method(self) -> str | None:
        """The method of the block; None where it stays float."""
        return None if self.spec is None else self.spec.method

    def row(self) -> dict[str, Any]:
        """The plan as reports and `inspect` list it."""
        site, bits = self.site, 32 if self.keep == "float" else 1
        return {
            "name": site.name,
            "op": site.op,
            "kind": site.kind,
            "roles": sorted(site.roles),
            "tier": site.tier,
            "macs": site.macs,
            "params": site.params,
            "weight_bits": bits,
            "act_bits": bits,
            "state": self.keep,
            "method": self.method,
            "form": self.form.kind if self.spec is not None else "",
            "became": self.became,
            "reason": self.reason,
        }


def check_policy(policy: BlockPolicy) -> None:
    """Raise RecipeError where a policy contradicts itself."""
    if policy.method not in METHODS:
        raise RecipeError(f"blocks.method is {policy.method!r}; it is one of {', '.join(METHODS)}")
    if policy.time_groups > 1 and not METHODS[policy.method].timed:
        timed = ", ".join(name for name, method in METHODS.items() if method.timed)
        raise RecipeError(
            f"blocks.method {policy.method!r} has no tables for {policy.time_groups} time groups: "
            f"set blocks.time_groups to 1, or take one of {timed}"
        )


def block_plans(captured: Captured, policy: BlockPolicy, time: str = "") -> tuple[BlockPlan, ...]:
    """One plan for each place of the model, in order of execution. `time`: the timestep's name.

    Raises: RecipeError where the policy contradicts itself or a pattern matches nothing;
            CaptureError where there is no recorded run.
    """
    check_policy(policy)
    check_patterns(captured, policy)
    view = view_of(captured, time)
    around = {site.name: surroundings(view, site) for site in captured.sites}
    tails = tail_levels(captured.sites, around, policy.fp_tail_levels)
    return tuple(_plan(view, site, around[site.name], policy, tails) for site in captured.sites)


def _plan(
    view: View, site: Site, around: Surroundings, policy: BlockPolicy, tails: Mapping[str, str]
) -> BlockPlan:
    captured = view.captured
    reason = reason_to_keep(captured, site, around, policy, tails.get(site.name, ""))
    if reason:
        return BlockPlan(site, around, reason=reason)
    layer = float_layer(captured, site)
    form = _form(view, site, layer, around, policy)
    spec, form, why = _spec(layer, around, form, policy)
    if spec is None:
        return BlockPlan(site, around, reason=why)
    whole = form.kind == "block"
    ends = whole and around.ends is not None and _takes_end(spec, policy)
    if ends and around.activation is None:
        spec = replace(spec, activation=False)  # the one behind the sum is the block's
    plan = BlockPlan(
        site, around, "packed", "; ".join(filter(None, (form.refused, why))), spec, form,
        norm=around.norm if whole and spec.norm in (None, "batch", "affine") else "",
        takes_activation=whole and around.activation is not None and _takes(spec.rule),
        takes_end=ends,
    )  # fmt: skip
    return told.told(plan, layer)


def _form(view: View, site: Site, layer: Layer, around: Surroundings, policy: BlockPolicy) -> Form:
    outputs = layer.out_features if isinstance(layer, nn.Linear) else 0
    thirds = outputs % 3 == 0 and outputs >= 3 * policy.min_channels
    parts = 3 if thirds and feeds_products(view, site) else 1
    return form_of(layer, around, reshape=policy.reshape, parts=parts)


def _spec(
    layer: Layer, around: Surroundings, form: Form, policy: BlockPolicy
) -> tuple[BlockSpec | None, Form, str]:
    """The block for a layer, its form, and why it is not the method's own or none at all."""
    name, why = policy.method, ""
    rule = METHODS[name]
    if isinstance(layer, nn.Linear) and rule.tokens:
        name, rule = rule.tokens, METHODS[rule.tokens]
    if form.kind == "block" and rule.shortcut == "identity" and not _keeps_shape(layer):
        form = _branches(layer, rule, form)
        if form.kind == "block":
            why = f"{name} needs as many channels out as in and the same size"
            if not rule.instead:
                return None, form, why
            name, rule = rule.instead, METHODS[rule.instead]
            why += f": {name} instead"
    shortcut = form.kind != "block" or _has_shortcut(around, rule, policy)
    spec = BlockSpec(
        name, policy.time_groups if rule.timed else 1, policy.dab_scale,
        None if policy.norm == "auto" or rule.norm == "layer" else policy.norm,
        shortcut=shortcut, start=policy.start,
        learn_shortcut=shortcut and _gains(around, form, policy), timed=policy.time_aware,
    )  # fmt: skip
    refused = stands(layer, spec) if form.kind == "block" else ""
    return (None, form, refused) if refused else (spec, form, why)


def _keeps_shape(layer: Layer) -> bool:
    if isinstance(layer, nn.Linear):
        return layer.in_features == layer.out_features
    if isinstance(layer, nn.Conv1d):
        same = layer.padding == "same" or 2 * int(layer.padding[0]) == int(layer.dilation[0]) * (
            layer.kernel_size[0] - 1
        )
        return layer.in_channels == layer.out_channels and layer.stride == (1,) and same
    return (
        isinstance(layer, nn.Conv2d)
        and layer.in_channels == layer.out_channels
        and (is_same(layer) or layer.groups > 1)
        and set(layer.stride) == {1}
    )


def _branches(layer: Layer, rule: Method, form: Form) -> Form:
    """Several blocks of equal shape, where one number of channels divides the other."""
    if not rule.branches or not (isinstance(layer, nn.Linear) or _is_plain(layer)):
        return form
    inputs, outputs = layer.weight.shape[1], layer.weight.shape[0]
    if outputs % inputs == 0:
        kind: Kind = "split" if isinstance(layer, nn.Linear) else "wide"
        return Form(kind, outputs // inputs, form.refused)
    if inputs % outputs == 0 and not isinstance(layer, nn.Linear):
        return Form("narrow", inputs // outputs, form.refused)
    return form


def _is_plain(layer: Layer) -> bool:
    return isinstance(layer, nn.Conv2d) and is_same(layer)


def _has_shortcut(around: Surroundings, rule: Method, policy: BlockPolicy) -> bool:
    """Whether the block has a shortcut of its own beside the model's."""
    if rule.shortcut == "none" or policy.shortcut == "never":
        return False
    # BI-DiffSR stands on its shortcuts, and has both.
    return policy.shortcut == "always" or not around.residual or rule.shortcut == "identity"


def _gains(around: Surroundings, form: Form, policy: BlockPolicy) -> bool:
    """Whether the shortcut has a gain that is fitted and learnt.

    Unit shortcuts around each layer of a trained model without batch norms double what goes through
    it, layer by layer; so do those beside shortcuts of the model.
    """
    if policy.start == "scratch":
        return False
    normed = around.norm or policy.norm == "batch"
    return not normed or form.kind != "block" or bool(around.residual)


def _takes(rule: Method) -> bool:
    """Whether blocks of a method take over the activation behind them.

    One without an activation lets it go where it has a shortcut: a real-valued way that sees one
    side only would carry half. Without a shortcut it stays, and the next threshold sees to it.
    """
    return rule.activation != "none" or rule.shortcut != "none"


def _takes_end(spec: BlockSpec, policy: BlockPolicy) -> bool:
    """Whether what stands behind the model's own sum learns, or goes, as inside blocks."""
    rule = spec.rule
    known = rule.activation in ENDS or (rule.activation == "none" and rule.shortcut != "none")
    return policy.ends == "learn" and known and not spec.shortcut


def drops(spec: BlockSpec) -> bool:
    """Whether a block lets the activation go that it takes over."""
    return spec.rule.activation == "none"


def check_timed(plans: tuple[BlockPlan, ...], policy: BlockPolicy) -> None:
    """Raise RecipeError where time groups are asked for and no block would have any."""
    if policy.time_groups > 1 and not any(plan.timed for plan in plans):
        raise RecipeError(
            f"blocks.time_aware is {policy.time_aware!r}, and no block of {policy.method} has such "
            "tables in this model: give blocks.time_aware both"
        )


def check_something(plans: tuple[BlockPlan, ...]) -> None:
    """Raise NotPackable where no layer becomes a block, with the commonest reasons."""
    if any(plan.keep == "packed" for plan in plans):
        return
    if not plans:
        raise NotPackable("no layer becomes a block: the model has none that multiplies")
    counts: dict[str, list[str]] = {}
    for plan in plans:
        counts.setdefault(plan.reason, []).append(plan.site.name or "the model itself")
    common = sorted(counts.items(), key=lambda item: -len(item[1]))[:3]
    said = "; ".join(
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} ({reason})"
        for reason, names in common
    )
    raise NotPackable(f"no layer becomes a block: {said}")
