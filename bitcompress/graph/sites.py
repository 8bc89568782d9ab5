"""From recorded calls to sites: what may be replaced, with its facts, and what may not, and why.

A call is replaced by where it stands. So a site is refused wherever that place could mean two
things: other calls in another run, other weights, a weight that something else reads as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from bitcompress.graph import facts
from bitcompress.graph.arguments import TO_FLOAT, type_name
from bitcompress.graph.calls import einsum_refusal
from bitcompress.graph.intercept import tensor_at
from bitcompress.graph.record import LAYERS, Recording
from bitcompress.graph.scope import OUTSIDE
from bitcompress.graph.sharing import Users, weight_users
from bitcompress.graph.site import Op, Site
from bitcompress.layers.geometry import CONVOLUTIONS, TRANSPOSED, Convolution, refusal

Changing = frozenset[tuple[str, str]]
"""Modules and kinds of calls whose ordinals do not mean the same call in each run."""

PARAMETRIZED = (
    "its weight is parametrized, in a way that is not the same on each run: call "
    "remove_parametrizations first"
)
SCRIPTED = "TorchScript: what it computes cannot be seen"
MOST_HEADS = 64
"""A third-last axis up to here is taken for heads."""


@dataclass(frozen=True)
class _View:
    """The model and its recorded run, with what follows from the whole of it."""

    net: nn.Module
    heads: set[fx.Node]
    tails: set[fx.Node]
    live: set[fx.Node]
    users: Users
    changing: Changing


def changing_calls(recordings: Sequence[Recording]) -> Changing:
    """Where the calls of one kind are not the same ones in each run of a module."""
    seen: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for recording in recordings:
        runs: dict[tuple[int, str], list[str]] = {}
        for node in (*recording.calls, *recording.pointwise):
            runs.setdefault((node.meta["run"], _kind(node)), []).append(_gist(node))
        for (run, kind), gists in runs.items():
            owner = recording.runs[run] if run >= 0 else OUTSIDE
            seen.setdefault((owner, kind), set()).add(tuple(gists))
    return frozenset(place for place, patterns in seen.items() if len(patterns) > 1)


def _kind(node: fx.Node) -> str:
    kind: str = node.meta["pointwise"][1] if "pointwise" in node.meta else node.meta["kind"]
    return kind


def _gist(node: fx.Node) -> str:
    """What tells one call from another of its kind: its weights, or who made its operands."""
    if "pointwise" in node.meta:
        return facts.producer(node.all_input_nodes[0]) if node.all_input_nodes else ""
    if "module" in node.meta:
        return ""
    if any(node.meta["weights"]):
        return " ".join(node.meta["weights"])
    return " ".join(facts.producer(maker) for maker in node.meta["operand_nodes"][:2])


def recorded_sites(net: nn.Module, recording: Recording, changing: Changing) -> list[Site]:
    """One site a place, calls of the same place merged, in order of first execution."""
    heads, tails = facts.ends(recording)
    live = facts.depends_on_input(recording)
    view = _View(net, heads, tails, live, weight_users(net, recording), changing)
    merged: dict[str, Site] = {}
    for node in recording.calls:
        for site in _node_sites(view, node):
            old = merged.get(site.name)
            merged[site.name] = site if old is None else _merged(old, site)
    seen = {site.owner for site in merged.values()}
    # A layer whose weight a function takes is that call; it need not run itself.
    seen |= {site.weight.rpartition(".")[0] for site in merged.values() if site.weight}
    scripted: set[str] = set()
    for name, module in net.named_modules():
        if name not in seen and isinstance(module, LAYERS):
            merged[name] = module_site(name, module).refused("never ran on the example input")
        if isinstance(module, torch.jit.ScriptModule):
            if name.rpartition(".")[0] not in scripted:
                merged[name] = module_site(name, module)
            scripted.add(name)
    return [_tied(view, site) for site in merged.values()]


def _merged(old: Site, new: Site) -> Site:
    """One site for two calls of the same place."""
    both = replace(
        old,
        macs=old.macs + new.macs,
        calls=old.calls + 1,
        roles=old.roles | new.roles,
        producers=tuple(
            a if a == b else "" for a, b in zip(old.producers, new.producers, strict=True)
        ),
        heads=old.heads if old.heads == new.heads else (1, 1),
    )
    if new.refusal:
        return both.refused(new.refusal)
    if (old.weight, old.bias) != (new.weight, new.bias):
        return both.refused("is called with other weights each time")
    if old.op == "conv2d" and dict(old.details) != dict(new.details):
        return both.refused("is called with other strides or paddings each time")
    return both


def _node_sites(view: _View, node: fx.Node) -> list[Site]:
    sites = _layer_sites(node) if "module" in node.meta else _call_sites(view, node)
    roles = set()
    roles |= {"head"} if node in view.heads else set()
    roles |= {"tail"} if node in view.tails else set()
    result = []
    for site in sites:
        if node not in view.live:
            site = site.refused("does not depend on the input: a constant of the model")
        if site.tier == "recorded" and (node.meta["owner"], node.meta["kind"]) in view.changing:
            site = site.refused(
                "its module makes other calls at another input size or in another run"
            )
        result.append(replace(site, roles=site.roles | roles))
    return result


# ---- Layers of the module tree ------------------------------------------------------------------


def _layer_sites(node: fx.Node) -> list[Site]:
    module = node.meta["module"]
    weight = getattr(module, "weight", None)
    made = facts.producer(node.meta["operand_nodes"][0]) if node.meta["operand_nodes"] else ""
    inputs = tuple(node.meta["shapes"][:1])
    site = replace(
        module_site(str(node.target), module),
        shapes=(*inputs, tuple(weight.shape)) if isinstance(weight, Tensor) else inputs,
        macs=facts.macs(node),
        calls=1,
        producers=(made, ""),
    )
    if isinstance(module, TRANSPOSED) and len(node.args) + len(node.kwargs) > 1:
        site = site.refused("is called with an output_size")
    return [site.refused(node.meta["odd"]) if node.meta["odd"] else site]


def module_site(name: str, module: nn.Module) -> Site:
    """The site of a layer, by what the module alone says."""
    kind = type(module).__name__
    op: Op = "linear" if isinstance(module, nn.Linear) else "other"
    op = "conv2d" if isinstance(module, CONVOLUTIONS) else op
    site = Site(
        name=name,
        op=op,
        tier="module",
        owner=name,
        kind=kind,
        roles=_conv_roles(module) if isinstance(module, CONVOLUTIONS) else frozenset(),
        params=sum(p.numel() for p in module.parameters(recurse=False)),
    )
    if isinstance(module, torch.jit.ScriptModule):
        return site.refused(SCRIPTED)
    if op == "other":
        return site.refused(f"no packed operator for {kind}")
    if parametrize.is_parametrized(module):
        return site.refused(PARAMETRIZED)
    plain = next(kind for kind in (nn.Linear, *CONVOLUTIONS) if isinstance(module, kind))
    if type(module).forward is not plain.forward or "forward" in vars(module):
        return site.refused(f"{kind} has a forward of its own")
    if any(
        hasattr(hook, "name") and hasattr(hook, "compute_weight")
        for hook in module._forward_pre_hooks.values()
    ):
        return site.refused("its weight is rebuilt by a hook: remove it first")
    if isinstance(module, CONVOLUTIONS) and refusal(module):
        return site.refused(refusal(module))
    weight = module.weight
    if not isinstance(weight, Tensor):
        return site.refused(f"its weight is {type(weight).__name__}")
    if weight.dtype != torch.float32:
        convert = TO_FLOAT * weight.is_floating_point()
        return site.refused(f"its weight is {type_name(weight)}{convert}")
    return site


def _conv_roles(module: Convolution) -> frozenset[str]:
    roles = set()
    if module.groups > 1 and module.groups == module.in_channels:
        roles.add("depthwise")
    if set(module.kernel_size) == {1}:
        roles.add("pointwise")
    if min(module.in_channels, module.out_channels) * 4 <= max(
        module.in_channels, module.out_channels
    ):
        roles.add("bottleneck")
    return frozenset(roles)


def _tied(view: _View, site: Site) -> Site:
    """Whether a weight is shared with something that is not being swapped with it."""
    if site.tier != "module" or site.refusal:
        return site
    module = view.net.get_submodule(site.name)
    for name, other in view.net.named_modules():
        shares = any(p is module.weight for p in other.parameters(recurse=False))
        if shares and not isinstance(other, (nn.Linear, *CONVOLUTIONS)):
            return site.refused(f"its weight is tied to {name}, which stays as it is")
    assert isinstance(module.weight, Tensor)
    layers = {name for name, _ in view.net.named_modules(remove_duplicate=False)}
    users = view.users.get(id(module.weight), {})
    others = {name for name, reads in users.items() if reads} - layers
    if others:
        return site.refused(f"its weight is also used by {min(others)}")
    return site


# ---- Function calls -----------------------------------------------------------------------------


def _call_sites(view: _View, node: fx.Node) -> list[Site]:
    meta = node.meta
    shapes, makers, kind = meta["shapes"], meta["operand_nodes"], meta["kind"]
    site = Site(
        name=f"{meta['owner']}@{kind}.{meta['ordinal']}",
        op="other",
        tier="recorded",
        owner=meta["owner"],
        kind=kind,
        ordinal=meta["ordinal"],
        shapes=tuple(shapes[:2]),
        macs=facts.macs(node),
        calls=1,
        producers=(*(facts.producer(m) for m in makers[:2]), "", "")[:2],
        details=dict(meta["detail"]),
    )
    refusal = _call_refusal(view, node)
    if kind in ("linear", "conv2d"):
        op: Op = "linear" if kind == "linear" else "conv2d"
        site = replace(site, op=op).refused(refusal) if refusal else replace(site, op=op)
        return [site if refusal else _parameter_site(view, node, site)]
    if refusal:
        return [site.refused(refusal)]
    site = replace(site, op="matmul")
    if kind == "sdpa":
        return _attention_sites(node, site)
    roles = {"qk"} if facts.leads_to_softmax(node) else set()
    if "softmax" in site.producers[0].lower():
        roles.add("av")
    heads = (1, 1) if kind == "einsum" else (_head_size(shapes[0]), _head_size(shapes[1]))
    return [replace(site, roles=frozenset(roles), heads=heads)]


def _call_refusal(view: _View, node: fx.Node) -> str:
    """Why a function call cannot be replaced, whatever its weights; empty where it can."""
    meta = node.meta
    shapes, kind = meta["shapes"], meta["kind"]
    if not meta["supported"]:
        return f"no packed operator for {kind}"
    if meta["owner"] == OUTSIDE:
        return "is called by a hook, in the forward of no module"
    if meta["odd"]:
        return str(meta["odd"])
    if meta["detail"].get("out"):
        return "writes its result into a given tensor (out=)"
    if kind == "einsum":
        refusal = einsum_refusal(str(meta["detail"]["equation"]), shapes)
        if refusal:
            return refusal
    elif kind == "matmul" and any(len(shape) < 2 for shape in shapes[:2]):
        return "a matrix times a vector has no row to share"
    count = {"sdpa": 3, "matmul": 2, "einsum": 2}.get(kind, 0)
    if any(facts.producer(maker) == "get_attr" for maker in meta["operand_nodes"][:count]):
        return "one operand is a parameter used as it is: make it an nn.Linear"
    return ""


def _head_size(shape: tuple[int, ...]) -> int:
    return int(shape[-3]) if len(shape) == 4 and shape[-3] <= MOST_HEADS else 1


def _attention_sites(node: fx.Node, site: Site) -> list[Site]:
    """The two products of one scaled_dot_product_attention."""
    q, k, v = node.meta["shapes"][:3]
    if site.details.get("enable_gqa"):
        # Keys and values are repeated before the product: they have the heads of the query.
        k, v = ((*t[:-3], q[-3], *t[-2:]) for t in (k, v))
    logits = (*q[:-1], k[-2])
    makers = [facts.producer(m) for m in node.meta["operand_nodes"][:3]]
    qk = replace(
        site, name=f"{site.name}.qk", part="qk", roles=frozenset({"qk"}),
        shapes=(q, (*k[:-2], k[-1], k[-2])), macs=math.prod(logits) * int(q[-1]),
        producers=(makers[0], makers[1]), heads=(_head_size(q), _head_size(k)),
    )  # fmt: skip
    av = replace(
        site, name=f"{site.name}.av", part="av", roles=frozenset({"av"}),
        shapes=(logits, v), macs=math.prod(logits) * int(v[-1]),
        producers=("softmax", makers[2]), heads=(_head_size(logits), _head_size(v)),
    )  # fmt: skip
    return [qk, av]


def _parameter_site(view: _View, node: fx.Node, site: Site) -> Site:
    """A functional linear or convolution: it can be packed if its weight is the model's own."""
    names, shapes = [*node.meta["weights"], "", ""], node.meta["shapes"]
    weight, bias = names[1], names[2]
    if not weight:
        owner = view.net.get_submodule(site.owner)
        computed = "its weight is computed, not a parameter"
        return site.refused(PARAMETRIZED if parametrize.is_parametrized(owner) else computed)
    if len(shapes) > 2 and not bias:
        return site.refused("its bias is computed, not a parameter")
    if len(shapes[1]) != (2 if site.op == "linear" else 4):
        return site.refused(f"its weight has {len(shapes[1])} axes")
    for name, what in ((weight, "weight"), (bias, "bias")):
        users = view.users.get(id(tensor_at(view.net, name)), {}) if name else {}
        others = users.keys() - {site.name}
        if others:
            return site.refused(f"its {what} {name} is also used by {min(others)}")
    numbers = sum(tensor_at(view.net, name).numel() for name in (weight, bias) if name)
    return replace(site, weight=weight, bias=bias, params=numbers)


def fixed_heads(sites: list[Site], second: Recording) -> list[Site]:
    """Per-head grids only where the head axis has the same size at both input sizes."""
    sizes: dict[str, set[tuple[int, int]]] = {}
    for node in second.calls:
        if "module" not in node.meta and node.meta["kind"] in ("matmul", "sdpa"):
            for name, pair in _head_pairs(node):
                sizes.setdefault(name, set()).add(pair)
    return [
        site if sizes.get(site.name, {site.heads}) == {site.heads} else replace(site, heads=(1, 1))
        for site in sites
    ]


def _head_pairs(node: fx.Node) -> list[tuple[str, tuple[int, int]]]:
    meta = node.meta
    name = f"{meta['owner']}@{meta['kind']}.{meta['ordinal']}"
    if meta["kind"] == "matmul":
        return [(name, (_head_size(meta["shapes"][0]), _head_size(meta["shapes"][1])))]
    sites = _attention_sites(node, Site(name, "matmul", "recorded", meta["owner"], "sdpa",
                                        details=meta["detail"]))  # fmt: skip
    return [(site.name, site.heads) for site in sites]
