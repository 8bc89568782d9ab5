"""What surrounds a layer in the recorded run: what a block in its place could take over, and what
is there already.

A norm or an activation that alone follows a layer can become a part of its block; a shortcut that
the model has around a layer makes one of the block's own needless. All of it is read off the
recorded graph; where a layer runs several times, only what holds for each run is a fact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import fx, nn

from bitcompress.errors import CaptureError
from bitcompress.graph import facts
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.capture import Captured
from bitcompress.graph.intercept import Call
from bitcompress.graph.pointwise import ACTIVATIONS, activation_of
from bitcompress.graph.scope import OUTSIDE
from bitcompress.graph.site import Site

Residual = Literal["", "last", "alone"]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
GATES = frozenset(["sigmoid", "Sigmoid", "hardsigmoid", "Hardsigmoid", "softmax", "Softmax"])
SCALED = frozenset(["mul", "__mul__", "__rmul__", "mul_", "__imul__", "imul", "div", "__truediv__"])
SUMS = frozenset(["add", "__add__", "__radd__", "add_", "__iadd__", "iadd"])
PROJECTED = facts.LINEAR_STEPS | frozenset(["normalize", "LayerNorm"])
"""What may stand between a projection and the product of queries and keys."""
MOST_STEPS = 64


@dataclass(frozen=True)
class Behind:
    """A call behind a layer, or before it, that a block can take over."""

    calls: tuple[Call, ...]
    """Where it stands, in each run of the layer."""
    kind: str
    layer: nn.Module | None = None
    """The activation that it computes."""

    @property
    def name(self) -> str:
        """Its name in reports."""
        call = self.calls[0]
        return f"{call.owner}@{call.kind}.{call.ordinal}".lstrip(".")


@dataclass(frozen=True)
class Surroundings:
    """The facts of one site."""

    norm: str = ""
    """The batch norm that alone reads it."""
    activation: Behind | None = None
    """The activation that alone reads it, or its norm."""
    residual: Residual = ""
    """Whether a way of fewer layers is added to what it gives: it is the `last` of a branch that is
    longer by several, or `alone` in one that is longer by itself."""
    ends: Behind | None = None
    """The activation that alone reads that sum, where the layer's channels are those of the sum."""
    joined: tuple[int, ...] = ()
    """The channels of each part, where its input was joined of several for it alone."""
    enlarged: Behind | None = None
    """The nearest-neighbour enlargement by two that it alone reads."""
    shuffle: int = 1
    """The factor of the pixel shuffle that alone reads it."""
    made_by: str = ""
    """What made its input, views skipped."""
    gate: bool = False
    """Whether what it gives becomes a gate between 0 and 1."""
    conditions: bool = False
    """Whether it sees nothing but the timestep and labels."""
    pixels: int = 0
    """How many places its output has beside batch and channels."""
    size: tuple[int, ...] = ()
    """Height and width of its output where it is a picture."""
    opens: bool = False
    closes: bool = False

    @property
    def one_sided(self) -> bool:
        """Whether its input piles up on one side: a sign of it would say nothing."""
        return self.made_by in facts.ONE_SIDED


@dataclass(frozen=True)
class View:
    """The recorded run with what follows from the whole of it."""

    captured: Captured
    nodes: dict[str, list[fx.Node]]
    """The nodes of each leaf module and each call that multiplies, by site name."""
    depth: dict[fx.Node, int]
    """How many layers stand on the longest way from the inputs, the node itself counted."""
    main: set[fx.Node]
    """What depends on more than the timestep and labels."""
    live: set[fx.Node] = field(default_factory=set)


def view_of(captured: Captured, time: str | None = None) -> View:
    """The recorded run seen as a whole. `time` is the name of the timestep's argument.

    Raises: CaptureError where there is no recorded run.
    """
    recording = captured.recording
    if recording is None:
        raise CaptureError(
            "blocks need a recorded run of the model: give example_inputs that it takes"
        )
    nodes: dict[str, list[fx.Node]] = {}
    calls = set(recording.calls)
    live = facts.depends_on_input(recording)
    depth: dict[fx.Node, int] = {}
    main = _main_inputs(captured, time)
    for node in recording.graph.nodes:
        name = _name(node)
        if name:
            nodes.setdefault(name, []).append(node)
        parents = node.all_input_nodes
        depth[node] = max((depth[p] for p in parents), default=0) + (node in calls)
        if any(parent in main for parent in parents):
            main.add(node)
    return View(captured, nodes, depth, main, live)


def surroundings(view: View, site: Site) -> Surroundings:
    """The facts of one site; those of a layer that never ran are empty."""
    found = [_facts(view, site, node) for node in view.nodes.get(site.name, ())]
    return _of_all(found) if found else Surroundings()


def feeds_products(view: View, site: Site) -> bool:
    """Whether what a site gives becomes an operand of products of activations: it is q, k or v."""
    return any(_feeds(node) for node in view.nodes.get(site.name, ()))


def _feeds(node: fx.Node) -> bool:
    frontier, seen = [node], {node}
    while frontier:
        for user in frontier.pop().users:
            if user.meta.get("kind") in ("matmul", "sdpa", "einsum"):
                return True
            if str(user.meta.get("name", "")) in PROJECTED and user not in seen:
                seen.add(user)
                frontier.append(user)
    return False


def _name(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    if "kind" in node.meta:
        return f"{node.meta['owner']}@{node.meta['kind']}.{node.meta['ordinal']}"
    return ""


def _main_inputs(captured: Captured, time: str | None) -> set[fx.Node]:
    """The inputs that are more than a timestep or labels; all where that would be none."""
    assert captured.recording is not None
    args, kwargs = captured.inputs
    given = tensors_of((args, kwargs))
    timed = {id(t) for t in tensors_of(kwargs.get(time))} if time else set()
    holders = [n for n in captured.recording.graph.nodes if n.op == "placeholder"]
    pairs = list(zip(holders, given, strict=True))
    main = {n for n, t in pairs if t.dim() > 1 and t.is_floating_point() and id(t) not in timed}
    unseen = {n for n in captured.recording.graph.nodes if n.meta.get("unseen")}
    return (main or set(holders)) | unseen


def _facts(view: View, site: Site, node: fx.Node) -> Surroundings:
    end, norm = _norm_behind(view, node)
    activation = _activation_behind(view, end)
    if activation is not None:
        last = _only_reader(end)
        assert last is not None
        end = last
    shape = tuple(int(size) for size in node.meta["out_shape"])
    residual, total = _residual(view, node, end)
    whole = total is not None and tuple(total.meta["out_shape"]) == shape
    picture = site.op == "conv2d" and len(shape) == 4
    spatial = shape[2:] if site.op == "conv2d" else shape[1:-1]
    maker = node.meta["operand_nodes"][0] if node.meta["operand_nodes"] else None
    return Surroundings(
        norm=norm,
        activation=activation,
        residual=residual,
        ends=_activation_behind(view, total) if total is not None and whole else None,
        joined=_joined(maker, node),
        enlarged=_enlarged(view, maker, node),
        shuffle=_shuffle(end),
        made_by=facts.producer(maker),
        gate=_becomes_a_gate(end),
        conditions=node not in view.main,
        pixels=math.prod(spatial),
        size=shape[2:] if picture else (),
        opens="head" in site.roles,
        closes="tail" in site.roles,
    )


def _of_all(found: Sequence[Surroundings]) -> Surroundings:
    """What holds for every run of a layer."""
    first = found[0]
    same = {
        name: getattr(first, name)
        for name in ("norm", "residual", "joined", "shuffle", "made_by")
        if all(getattr(each, name) == getattr(first, name) for each in found)
    }
    return Surroundings(
        **same,
        activation=_each_time([each.activation for each in found]),
        ends=_each_time([each.ends for each in found]),
        enlarged=_each_time([each.enlarged for each in found]),
        gate=any(each.gate for each in found),
        conditions=all(each.conditions for each in found),
        pixels=max(each.pixels for each in found),
        size=max(each.size for each in found),
        opens=first.opens,
        closes=first.closes,
    )


def _each_time(found: Sequence[Behind | None]) -> Behind | None:
    """One call that stands at each run, or several alike."""
    there = [each for each in found if each is not None]
    if len(there) != len(found) or len({each.kind for each in there}) != 1:
        return None
    layers = [each.layer for each in there]
    if any(not _alike(layers[0], layer) for layer in layers):
        return None
    calls = dict.fromkeys(call for each in there for call in each.calls)
    return replace(there[0], calls=tuple(calls))


def _alike(one: nn.Module | None, other: nn.Module | None) -> bool:
    if one is other:
        return True
    slopes = [getattr(layer, "negative_slope", None) for layer in (one, other)]
    return type(one) is type(other) and slopes[0] == slopes[1] and not isinstance(one, nn.PReLU)


# ---- What stands behind -------------------------------------------------------------------------


def _only_reader(node: fx.Node) -> fx.Node | None:
    """The one call that reads a value, once; None where there are more, or it goes out."""
    users = list(node.users)
    if len(users) != 1 or users[0].op == "output" or users[0].all_input_nodes.count(node) != 1:
        return None
    return users[0]


def _norm_behind(view: View, node: fx.Node) -> tuple[fx.Node, str]:
    """The batch norm that alone reads a layer, and what is behind it: (node, name)."""
    after = _only_reader(node)
    if after is None or after.op != "call_module":
        return node, ""
    norm, name = after.meta["module"], str(after.target)
    plain = type(norm) in NORMS and norm.running_mean is not None
    hooked = bool(norm._forward_hooks or norm._forward_pre_hooks)
    rows = len(node.meta["out_shape"])
    by_channel = rows > 2 or not isinstance(norm, nn.BatchNorm2d)
    if isinstance(node.meta.get("module"), nn.Linear):
        by_channel = rows == 2
    # A norm that stands behind several layers is no part of one.
    mine = all(_maker(each) == _name(node) for each in view.nodes[name])
    return (after, name) if plain and not hooked and by_channel and mine else (node, "")


def _activation_behind(view: View, node: fx.Node) -> Behind | None:
    after = _only_reader(node)
    if after is None or "pointwise" not in after.meta:
        return None
    owner, kind, ordinal = after.meta["pointwise"]
    if kind not in ACTIVATIONS or not _may_go(view, owner, kind):
        return None
    layer = activation_of(after, view.captured.net)
    if layer is None or _is_elsewhere(view, after):
        return None
    return Behind((Call(owner, kind, ordinal),), kind, layer)


def _may_go(view: View, owner: str, kind: str) -> bool:
    """Whether calls of a kind in a module mean the same each time it runs."""
    return owner != OUTSIDE and (owner, kind) not in view.captured.changing


def _is_elsewhere(view: View, node: fx.Node) -> bool:
    """Whether the same call reads what another layer made, in another run of its module."""
    assert view.captured.recording is not None
    return any(
        _maker(other) != _maker(node)
        for other in view.captured.recording.pointwise
        if other.meta["pointwise"] == node.meta["pointwise"]
    )


def _maker(node: fx.Node) -> str:
    """The name of the layer or call whose result a node reads first."""
    return _name(node.all_input_nodes[0]) if node.all_input_nodes else ""


def _shuffle(node: fx.Node) -> int:
    after = _only_reader(node)
    if after is None:
        return 1
    module = after.meta.get("module")
    if isinstance(module, nn.PixelShuffle):
        return int(module.upscale_factor)
    if after.meta.get("name") == "pixel_shuffle":
        factor = after.kwargs.get("upscale_factor", (*after.args, 1)[1])
        return factor if isinstance(factor, int) else 1
    return 1


def _becomes_a_gate(node: fx.Node) -> bool:
    """Whether a sigmoid or softmax is reached over views and enlargements alone."""
    for _ in range(MOST_STEPS):
        after = _only_reader(node)
        if after is None:
            return False
        name = str(after.meta.get("name", ""))
        if name in GATES:
            return True
        if name not in facts.VIEWS and name != "interpolate":
            return False
        node = after
    return False


# ---- What goes around ---------------------------------------------------------------------------


def _residual(view: View, layer: fx.Node, node: fx.Node) -> tuple[Residual, fx.Node | None]:
    """Whether a way of fewer layers is added to what a layer gives, scaling and norms between.

    Returns: which, and the sum.
    """
    for _ in range(MOST_STEPS):
        after = _only_reader(node)
        if after is None:
            break
        name = str(after.meta.get("name", ""))
        if name in SUMS:
            others = [n for n in after.all_input_nodes if n is not node]
            whole = [n for n in others if n.meta.get("out_shape") == after.meta["out_shape"]]
            around = [n for n in whole if n in view.main and view.depth[n] < view.depth[layer]]
            if around:
                inside = view.depth[layer] - max(view.depth[n] for n in around)
                return "alone" if inside == 1 else "last", after
            if whole:
                break
        elif name not in facts.VIEWS | SCALED and not _is_norm(after):
            break
        node = after
    return "", None


def _is_norm(node: fx.Node) -> bool:
    module = node.meta.get("module")
    return isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm)


# ---- What stands before -------------------------------------------------------------------------


def _joined(maker: fx.Node | None, layer: fx.Node) -> tuple[int, ...]:
    """The channels of what a cat along channels made for a layer alone."""
    if maker is None or maker.meta.get("name") not in ("cat", "concat", "concatenate"):
        return ()
    if _only_reader(maker) is not layer or len(maker.meta["out_shape"]) != 4:
        return ()
    axis = maker.kwargs.get("dim", maker.args[1] if len(maker.args) > 1 else 0)
    parts = maker.args[0] if maker.args else maker.kwargs.get("tensors")
    if axis not in (1, -3) or not isinstance(parts, tuple | list):
        return ()
    shapes = [part.meta.get("out_shape", ()) for part in parts if isinstance(part, fx.Node)]
    known = len(shapes) == len(parts) and all(len(shape) == 4 for shape in shapes)
    return tuple(int(shape[1]) for shape in shapes) if known else ()


def _enlarged(view: View, maker: fx.Node | None, layer: fx.Node) -> Behind | None:
    """The enlargement of a picture by two, nearest neighbour, for a layer alone."""
    if maker is None or "pointwise" not in maker.meta or _only_reader(maker) is not layer:
        return None
    owner, kind, ordinal = maker.meta["pointwise"]
    if kind != "interpolate" or not _may_go(view, owner, kind):
        return None
    module = maker.meta.get("module")
    if module is not None:
        factor, mode, size = module.scale_factor, module.mode, module.size
    else:
        names = ("input", "size", "scale_factor", "mode")
        given = {**dict(zip(names, maker.args, strict=False)), **maker.kwargs}
        size, factor = given.get("size"), given.get("scale_factor")
        mode = given.get("mode", "nearest")
    parts = factor if isinstance(factor, tuple | list) else (factor,)
    twice = size is None and all(part in (2, 2.0) for part in parts)
    if not twice or mode != "nearest" or len(maker.meta["out_shape"]) != 4:
        return None
    return Behind((Call(owner, kind, ordinal),), kind)
