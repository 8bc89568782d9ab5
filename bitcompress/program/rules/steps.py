"""Norms, activations, scalings and residual sums become steps of the layer beside them.

What works on each row of channels by itself needs no pass over memory of its own: before a layer it
happens as the layer cuts its input, behind it as the layer writes its output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from bitcompress.program.ir import Graph, Node, Rows, Value, as_rows, channel_axis, look_at, rows_of
from bitcompress.program.moves import is_dense, uses
from bitcompress.program.rules.layout import last_strides
from bitcompress.program.spec import LayerSpec, RowStep

aten = torch.ops.aten

UNARY = {
    aten.relu.default: "relu", "gelu": "gelu", "gelu_tanh": "gelu_tanh", "sigmoid": "sigmoid",
    "silu": "silu",
}  # fmt: skip
SMALLEST = 4096
"""Values of fewer numbers are left to torch."""
BINARY = {aten.add.Tensor: "add", aten.mul.Tensor: "mul", aten.sub.Tensor: "sub"}


@dataclass(frozen=True)
class _Read:
    """A step that is not yet part of a layer: what it does to `x`, and with what."""

    kind: str
    x: Value
    other: Any = None
    value: float = 0.0
    gain: torch.Tensor | None = None


def layers(graph: Graph) -> None:
    """Make every packed layer a node that can take steps, and every norm and alike one of steps."""
    nodes: list[Node] = []
    for node in graph.nodes:
        pictures = node.kind == "conv2d"
        if node.kind in ("linear", "conv2d"):
            axis = 1 if pictures else len(node.args[0].shape) - 1
            node.kind, node.target = "layer", LayerSpec(node.target, axis, pictures)
        elif node.kind == "norm" and all(value.const is not None for value in node.args[1:]):
            has_gain, has_shift, eps = node.target
            affine = [value.const for value in node.args[1:]]
            gain = affine[0] if has_gain else None
            shift = affine[-1] if has_shift else None
            step = RowStep("norm", gain=gain, shift=shift, value=eps)
            axis = len(node.args[0].shape) - 1
            node.kind, node.target = "layer", LayerSpec(None, axis, head=(step,))
            node.args = node.args[:1]
        if node.kind == "layer" and rows_of(node.args[0], in_axis(node)) is None:
            nodes.append(_laid_out(node))
        nodes.append(node)
    graph.nodes = nodes
    graph.link()


def in_axis(node: Node) -> int:
    """Where the channels of a layer's input are."""
    axis: int = node.target.x_axis
    return axis


def out_axis(node: Node) -> int:
    """Where the channels of a layer's output are."""
    return _axis(node, node.out)


def width(node: Node) -> int:
    """How many channels the rows have that a layer writes."""
    spec: LayerSpec = node.target
    if spec.module is None:
        return int(node.args[0].shape[spec.x_axis])
    return int(spec.module.weight_shape[0]) // max(1, spec.shuffle) ** 2


def _axis(node: Node, value: Value) -> int:
    """Where the channels are in a view of a layer's output: side by side, as many as it writes."""
    channels, last = width(node), len(value.shape) - 1
    for axis in (1, last) if node.target.pictures and last == 3 else range(last, -1, -1):
        if value.shape[axis] == channels and (channels == 1 or value.stride[axis] == 1):
            return axis
    return channel_axis(value, node.target.pictures)


def _has_norm(spec: LayerSpec) -> bool:
    return any(step.kind == "norm" for step in (*spec.head, *spec.tail))


def _laid_out(node: Node) -> Node:
    """A copy of a layer's input without gaps, of which the layer is told."""
    x = node.args[0]
    stride = last_strides(x.shape) if node.target.pictures else _dense(x.shape)
    made = Value(x.shape, stride, 0, x.dtype)
    made.node = Node("relayout", None, (x,), {}, [made])
    node.args = (made, *node.args[1:])
    return made.node


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def take_tails(graph: Graph) -> None:
    """Give each layer the steps that follow it, as far as nobody else reads what is between."""
    for node in list(graph.nodes):
        if node.kind != "layer" or node.out.node is not node:  # the latter: taken in already
            continue
        current = node
        while (longer := _longer(graph, current)) is not None:
            current = longer
    graph.prune()


def _longer(graph: Graph, node: Node) -> Node | None:
    """The layer with the next step taken in; None where there is none to take."""
    if graph.is_output(node.out) or node.target.shuffle:
        return None
    found = uses(node.out)
    if len(found) != 1:
        return None
    user, seen = found[0]
    if user.kind == "aten" and user.target == aten.pixel_shuffle.default:
        return _shuffled(graph, node, user, seen)
    if user.kind == "layer" and user.target.module is None:
        return _joined(graph, node, user, seen)
    read = _step(user, seen)
    axis = _axis(node, seen)
    mine, theirs = _whole(seen, node.out, axis), _whole(user.outs[0], user.outs[0], axis)
    if read is None or mine is None or theirs is None or mine.order != theirs.order:
        return None
    if not mine.channels == theirs.channels == width(node) or seen.shape != user.out.shape:
        return None
    read = _with_gain(read, user, mine.channels, axis)
    operand, reach = _operand(read, mine, axis)
    if reach is None:
        return None
    spec, args = _with_step(node.target, node.args, read, operand, reach)
    made = Node("layer", spec, args, {}, user.outs)
    user.outs[0].node = made
    graph.fuse(node, user, made)
    return made


def _joined(graph: Graph, node: Node, user: Node, seen: Value) -> Node | None:
    """A layer and the chain of steps that alone reads it, as one."""
    axis = _axis(node, seen)
    mine, theirs = _whole(seen, node.out, axis), _whole(user.out, user.out, out_axis(user))
    if mine is None or theirs is None or mine.rows != theirs.rows:
        return None
    if not mine.channels == theirs.channels == width(node) == width(user):
        return None
    steps, others = (*user.target.head, *user.target.tail), user.args[1:]
    if user.args[0] is seen:
        if seen.node is not None and mine.order != theirs.order:
            return None
        if _has_norm(user.target) and axis != in_axis(user):
            return None
    else:  # x + y is y + x
        first, source = steps[0], rows_of(user.args[0], in_axis(user))
        swaps = first.kind in ("add", "mul") and first.reach == "whole" and first.operand > 0
        if not swaps or source is None or user.args[first.operand] is not seen:
            return None
        look = as_rows(source, user.args[0])
        others = tuple(look if i == first.operand else v for i, v in enumerate(user.args))[1:]
    if any(v.owner is node.out.owner for v in others):
        return None
    spec = node.target.but(tail=(*node.target.tail, *_behind(steps, node)))
    made = Node("layer", spec, (*node.args, *others), {}, user.outs)
    user.out.node = made
    graph.fuse(node, user, made)
    return made


def _behind(steps: tuple[RowStep, ...], node: Node) -> tuple[RowStep, ...]:
    """Steps of another node whose operands come behind the arguments of this one."""
    by = len(node.args) - 1
    return tuple(replace(s, operand=s.operand + by) if s.operand > 0 else s for s in steps)


def _with_step(
    spec: LayerSpec, args: tuple[Any, ...], read: _Read, operand: Any, reach: str
) -> tuple[LayerSpec, tuple[Any, ...]]:
    """A layer with one more step behind it, and its arguments."""
    place, value = -1, read.value
    if isinstance(operand, Value):
        place, args = len(args), (*args, operand)
    elif operand is not None:
        value = float(operand)
    step = RowStep(read.kind, place, reach, value, shift=read.gain)
    return spec.but(tail=(*spec.tail, step)), args


def _with_gain(read: _Read, user: Node, channels: int, axis: int) -> _Read:
    """The sum of x and something times a constant a channel, as one step, where nobody else reads
    the product."""
    product = read.other
    if read.kind != "add" or not isinstance(product, Value) or product.shape != read.x.shape:
        return read
    maker = product.node
    if maker is None or maker.kind != "aten" or maker.target != aten.mul.Tensor:
        return read
    if maker.kwargs or len(maker.args) != 2 or uses(product) != [(user, product)]:
        return read
    for what, gain in (maker.args, maker.args[::-1]):
        if not isinstance(what, Value) or not isinstance(gain, Value) or gain.const is None:
            continue
        shape = (1,) * (len(product.shape) - len(gain.shape)) + gain.shape
        along = all(n == (channels if i == axis else 1) for i, n in enumerate(shape))
        if along and what.shape == product.shape and what.dtype == torch.float32:
            flat = gain.const.detach().reshape(-1).contiguous()
            return replace(read, kind="mul_add", other=what, gain=flat)
    return read


def make_chains(graph: Graph) -> None:
    """Make what is left of steps on rows layers without a product: one pass for several of them."""
    for node in graph.nodes:
        first = next(node.inputs(), None)
        if first is None or len(node.outs) != 1 or node.out.numel < SMALLEST:
            continue
        for x in node.inputs():
            read = _step(node, x) if x.const is None and x.shape == node.out.shape else None
            mine, out = rows_of(x), rows_of(node.out)
            if read is None or mine is None or out is None or mine.order != out.order:
                continue
            operand, reach = _operand(read, mine, channel_axis(x))
            if reach is None or not out.whole or mine.channels != out.channels:
                continue
            made = LayerSpec(None, channel_axis(x))
            spec, args = _with_step(made, (x,), read, operand, reach)
            node.kind, node.target, node.args, node.kwargs = "layer", spec, args, {}
            break
    graph.link()


def _shuffled(graph: Graph, node: Node, user: Node, seen: Value) -> Node | None:
    """A pixel shuffle of a convolution is a matter of where its numbers are written."""
    out = user.out
    if node.target.module is None or seen is not node.out or len(seen.shape) != 4:
        return None
    if seen.stride != last_strides(seen.shape):
        return None
    if out.stride != last_strides(out.shape):
        out.taped, out.stride = out.stride, last_strides(out.shape)
    spec = node.target.but(shuffle=int(user.args[1]))
    made = Node("layer", spec, node.args, {}, [out])
    out.node = made
    graph.fuse(node, user, made)
    return made


def _whole(value: Value, owner: Value, axis: int | None = None) -> Rows | None:
    """All of its owner as rows, in place."""
    rows = rows_of(value, axis)
    return rows if rows is not None and rows.owner is owner.owner and rows.whole else None


def _step(node: Node, x: Value) -> _Read | None:
    """What a node does to x, number by number."""
    target = node.target if node.kind == "aten" else node.kind
    if len(node.outs) != 1 or {node.out.dtype, x.dtype} != {torch.float32}:
        return None
    if target in UNARY:
        return _Read(UNARY[target], x)
    if target == aten.leaky_relu.default:
        return _Read("leaky", x, value=float(node.args[1]) if len(node.args) > 1 else 0.01)
    if target == aten._prelu_kernel.default and node.args[0] is x:
        return _Read("prelu", x, node.args[1])
    if target == "leaky" and node.args[0] is x:
        return _Read("leaky", x, node.args[1])
    if target in BINARY and not node.kwargs and len(node.args) == 2:
        left, right = node.args
        if left is x and right is not x:
            return _Read(BINARY[target], x, right)
        if right is x and left is not x and BINARY[target] != "sub":
            return _Read(BINARY[target], x, left)
    return None


def _operand(read: _Read, rows: Rows, axis: int) -> tuple[Any, str | None]:
    """The other operand of a step and how far it reaches; no reach where it cannot be used."""
    other = read.other
    if other is None or isinstance(other, (int, float)):
        return other, "scalar"
    if not isinstance(other, Value) or other.dtype != torch.float32:
        return None, None
    if other.const is not None and other.const.numel() == 1:
        return float(other.const), "scalar"
    shape = (1,) * (len(read.x.shape) - len(other.shape)) + other.shape
    if len(shape) != len(read.x.shape):
        return None, None
    each = shape == read.x.shape
    single = all(n == 1 for i, n in enumerate(shape) if i != axis)
    if not each and shape[axis] == rows.channels and single:
        return other, "channel" if is_dense(other.owner) else None
    if not each and single and shape[axis] == 1 and shape[0] == read.x.shape[0] == 1:
        return _of_samples(other, axis, shape)
    if not each and _by_sample(shape, read.x.shape, axis) and _samples_first(rows, shape[0]):
        return _of_samples(other, axis, shape)
    alike = all(n == read.x.shape[i] for i, n in enumerate(shape) if i != axis)
    if each or (alike and shape[axis] == 1 and len(shape) == len(other.shape)):
        theirs = rows_of(other, axis)
        if theirs is None or theirs.order != rows.order:
            return None, None
        return as_rows(theirs, other), "whole" if each else "row"
    return None, None


def _by_sample(shape: tuple[int, ...], x: tuple[int, ...], axis: int) -> bool:
    """Whether an operand has one number, or one a channel, for each picture of a batch."""
    rest = all(n == 1 for i, n in enumerate(shape) if i not in (0, axis))
    return axis != 0 and rest and shape[0] == x[0] and shape[axis] in (1, x[axis])


def _samples_first(rows: Rows, samples: int) -> bool:
    """Whether the rows of one picture stand together."""
    return any(
        number == 0 and size == samples and step * samples == rows.rows
        for number, size, step in rows.order
    )


def _of_samples(other: Value, axis: int, shape: tuple[int, ...]) -> tuple[Value | None, str | None]:
    if len(shape) != len(other.shape):
        return None, None
    theirs = rows_of(other, axis)
    if theirs is None:
        return None, None
    return as_rows(theirs, other), "sample"


def take_heads(graph: Graph) -> None:
    """Give layers the norm or the steps before them, where it is read by layers alone."""
    for node in list(graph.nodes):
        if node.kind != "layer" or node.target.module is not None or graph.is_output(node.out):
            continue
        readers = uses(node.out)
        most = 2 if len(node.args) == 1 else 1
        if not 1 <= len(readers) <= most or not all(_takes(u, v, node) for u, v in readers):
            continue
        source = node.args[0]
        before = rows_of(source, in_axis(node))
        after = rows_of(node.out, out_axis(node))
        if before is None or after is None or before.order != after.order:
            continue
        for user, seen in readers:
            stride = _spread(seen, in_axis(user), after, before)
            view = look_at(source.owner, seen.shape, stride, before.offset, seen.dtype)
            graph.unlink(user)
            _put_before(user, node, view)
            graph.relink(user)
    graph.prune()


def _takes(user: Node, seen: Value, node: Node) -> bool:
    """Whether a layer can do the steps of `node` on its input."""
    if user.kind != "layer" or user.args[0] is not seen or user.target.codes_in:
        return False
    if user.target.head or any(v.owner is seen.owner for v in user.args[1:]):
        return False
    rows = _whole(seen, node.out, in_axis(user))
    mine = rows_of(node.out, out_axis(node))
    return rows is not None and mine is not None and rows.channels == mine.channels


def _put_before(user: Node, node: Node, view: Value) -> None:
    """Let a layer do the steps of `node` on `view`, what `node` reads."""
    steps = _behind((*node.target.head, *node.target.tail), user)
    user.args = (view, *user.args[1:], *node.args[1:])
    user.target = user.target.but(head=steps)


def _spread(seen: Value, axis: int, after: Rows, before: Rows) -> tuple[int, ...]:
    """The strides of a view of dense rows, in rows that lie `before.pitch` apart."""
    return tuple(
        1 if i == axis else stride // after.pitch * before.pitch
        for i, stride in enumerate(seen.stride)
    )
