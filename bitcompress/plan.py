"""From a recipe and a captured model to one plan a place: what it becomes and why."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from bitcompress.errors import RecipeError
from bitcompress.graph.capture import Captured
from bitcompress.graph.rewrite import Plan, State
from bitcompress.graph.site import Site
from bitcompress.recipe import Apply, Bits, Recipe, Selector

MOST_REASONS = 3
QUANTIZABLE = ("linear", "conv2d", "matmul")


def make_plans(captured: Captured, recipe: Recipe) -> tuple[Plan, ...]:
    """One plan for each place of the model, in order of execution.

    Raises: RecipeError if a rule that is not optional matches nothing.
    """
    plans = {site.name: _first_plan(site, recipe.bits) for site in captured.sites}
    for number, rule in enumerate(recipe.rules):
        matched = [site for site in captured.sites if matches(rule.match, site)]
        if not matched and not rule.optional:
            raise RecipeError(_unmatched(number, rule.match, captured.sites, recipe))
        for site in matched:
            if not site.refusal:
                plans[site.name] = _applied(plans[site.name], rule.apply, recipe.bits)
    return tuple(_protected(list(plans.values()), recipe))


def matches(selector: Selector, site: Site) -> bool:
    """Whether a selector means this place."""
    names = (selector.name,) if isinstance(selector.name, str) else selector.name
    return (
        any(fnmatchcase(site.name, pattern) for pattern in names)
        and selector.type in (None, site.op)
        and (selector.role is None or selector.role in site.roles)
    )


def _first_plan(site: Site, bits: int) -> Plan:
    if site.refusal or site.op not in QUANTIZABLE:
        reason = site.refusal or f"no packed operator for {site.kind}"
        return Plan(site, keep="float", reason=reason)
    return Plan(site, bits, bits)


def _applied(plan: Plan, apply: Apply, bits: int) -> Plan:
    def width(value: Bits | None, old: int) -> int:
        return old if value is None else (bits if value == "bits" else value)

    return replace(
        plan,
        keep=apply.keep or plan.keep,
        weight_bits=width(apply.weight_bits, plan.weight_bits),
        act_bits=width(apply.act_bits, plan.act_bits),
        per_channel=plan.per_channel if apply.per_channel is None else apply.per_channel,
        per_head=plan.per_head if apply.per_head is None else apply.per_head,
        per_row=plan.per_row if apply.per_row is None else apply.per_row,
        split=apply.split or plan.split,
        reason=plan.reason if apply.reason is None else apply.reason,
    )


def _protected(plans: list[Plan], recipe: Recipe) -> list[Plan]:
    """Keep the roles wide in the order named, each cheapest first, while the share allows it."""
    total = sum(plan.site.macs for plan in plans)
    stay_float = recipe.bits >= recipe.protect.float_from
    wide = 32 if stay_float else recipe.protect.bits
    candidates = [
        plan
        for plan in plans
        if plan.quantized
        and set(recipe.protect.roles) & plan.site.roles
        and not (stay_float and plan.site.op == "matmul")  # 8 bits lose products nothing
        and min(plan.weight_bits, plan.act_bits) < wide
    ]
    roles = recipe.protect.roles

    def rank(plan: Plan) -> int:
        return next(i for i, role in enumerate(roles) if role in plan.site.roles)

    chosen = {}
    ordered = sorted(candidates, key=lambda p: (rank(p), p.site.macs))
    for plan in _fitting(ordered, recipe.protect.share * total):
        role = roles[rank(plan)]
        share = 100 * plan.site.macs / total if total else 0.0
        kept = "kept float" if stay_float else f"kept at {wide} bits"
        reason = f"{role}: {kept}, {share:.2f} % of the multiply-accumulates"
        chosen[plan.site.name] = (
            replace(plan, keep="float", reason=reason)
            if stay_float
            else replace(plan, weight_bits=wide, act_bits=wide, reason=reason)
        )
    return [chosen.get(plan.site.name, plan) for plan in plans]


def _fitting(plans: Iterable[Plan], room: float) -> Iterator[Plan]:
    """Those of the plans, in their order, whose work still fits beside that of those before."""
    for plan in plans:
        if plan.site.macs <= room:
            room -= plan.site.macs
            yield plan


def widen(
    plans: Sequence[Plan], errors: Mapping[str, float], recipe: Recipe
) -> tuple[tuple[Plan, ...], tuple[str, ...]]:
    """Keep the layers wide that move the output most for their work, while the share allows it.

    errors: how far each layer moves the output at its present width. What earlier rules and roles
    keep wide counts in the share.
    Returns: the plans, and the names of those that became wider.
    """
    total = sum(plan.site.macs for plan in plans)
    wide = recipe.protect.bits
    chosen: dict[str, Plan] = {}
    heard = [
        p for p in plans
        if _narrow(p, recipe) and errors.get(p.site.name, 0.0) > 0 and p.site.macs
    ]  # fmt: skip
    ordered = sorted(heard, key=lambda p: -errors[p.site.name] / p.site.macs)
    for plan in _fitting(ordered, _share_left(plans, recipe) * total):
        share = 100 * plan.site.macs / total
        chosen[plan.site.name] = replace(
            plan, weight_bits=wide, act_bits=wide,
            reason=f"loud: kept at {wide} bits, {share:.2f} % of the multiply-accumulates",
        )  # fmt: skip
    return tuple(chosen.get(plan.site.name, plan) for plan in plans), tuple(chosen)


def widens(recipe: Recipe) -> bool:
    """Whether calibration keeps the loudest layers wide under this recipe."""
    protect = recipe.protect
    narrow = recipe.bits < min(protect.bits, protect.float_from)
    return protect.loudest and protect.share > 0 and narrow


def still_open(plans: Sequence[Plan], recipe: Recipe) -> str:
    """What calibration may still change in these plans; empty for nothing."""
    left = _share_left(plans, recipe)
    if not widens(recipe) or left <= 0 or not any(_narrow(p, recipe) for p in plans):
        return ""
    return (
        f"calibration will keep the layers whose error moves the output most at "
        f"{recipe.protect.bits} bits, up to {100 * left:.1f} % of the multiply-accumulates"
    )


def _narrow(plan: Plan, recipe: Recipe) -> bool:
    return plan.quantized and min(plan.weight_bits, plan.act_bits) < recipe.protect.bits


def _share_left(plans: Sequence[Plan], recipe: Recipe) -> float:
    """How much of the protected share is left when all that is wide counts."""
    total = sum(plan.site.macs for plan in plans) or 1
    spent = sum(p.site.macs for p in plans if p.quantized and not _narrow(p, recipe))
    return recipe.protect.share - spent / total


def nothing_packed(plans: Sequence[Plan]) -> str:
    """What to say where no layer is packed: the reasons, commonest first; empty where one is."""
    if any(plan.keep == "packed" for plan in plans):
        return ""
    if not plans:
        return "nothing is packed: the model has no layer and no product that multiplies"
    names: dict[str, list[str]] = {}
    for plan in plans:
        names.setdefault(plan.reason or f"{plan.keep}, as the recipe says", []).append(
            plan.site.name or "the model itself"
        )
    common = sorted(names.items(), key=lambda item: -len(item[1]))[:MOST_REASONS]
    told = "; ".join(
        f"{where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''} ({reason})"
        for reason, where in common
    )
    return f"nothing is packed: {told}"


def coverage(plans: Sequence[Plan], state: State = "packed") -> float:
    """The share of multiply-accumulates in that state; packed ones run on codes."""
    total = sum(plan.site.macs for plan in plans)
    if not total:
        return 1.0 if all(p.keep == state for p in plans) and plans else 0.0
    return sum(plan.site.macs for plan in plans if plan.keep == state) / total


def mean_bits(plans: Sequence[Plan]) -> tuple[float, float]:
    """The mean width of both operands of a product, weighted by work; float counts as 32.

    Returns: (weight or left operand, activation or right operand).
    """
    total = sum(plan.site.macs for plan in plans) or 1

    def left(plan: Plan) -> int:
        return plan.act_bits if plan.site.op == "matmul" else plan.weight_bits

    return (
        sum(p.site.macs * (left(p) if p.quantized else 32) for p in plans) / total,
        sum(p.site.macs * (p.act_bits if p.quantized else 32) for p in plans) / total,
    )


def _unmatched(number: int, selector: Selector, sites: Sequence[Site], recipe: Recipe) -> str:
    said = ", ".join(f"{k}={v!r}" for k, v in selector.model_dump(exclude_defaults=True).items())
    names = [site.name for site in sites]
    wanted = selector.name if isinstance(selector.name, str) else selector.name[0]
    close = difflib.get_close_matches(wanted, names, 1, 0.3)
    hint = f"; nearest name: {close[0]!r}" if close else ""
    return (
        f"recipe {recipe.metadata.name!r}: rules.{number}.match ({said or 'everything'}) matches "
        f"none of {len(names)} layers{hint}; see `bitcompress inspect`, or mark the rule optional"
    )
