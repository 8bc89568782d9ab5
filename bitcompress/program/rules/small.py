"""What is small goes first, is held where layers expect it, and group norms become their steps.

Thresholds of a time group, scales of a sample, embeddings of a timestep: a few numbers each, found
by operators of torch. Found before all else, they are operands that any layer may have.
"""

from __future__ import annotations

import torch

from bitcompress.program.ir import Graph, Node, Value
from bitcompress.program.place import NATIVE

aten = torch.ops.aten
SMALL = 1 << 16
"""As many numbers as a value may have that is moved or held."""


def small_first(graph: Graph) -> None:
    """Put nodes on few numbers before the others, as far as they do not depend on these."""
    ready = {id(value) for value in graph.inputs if value.numel <= SMALL}
    first, rest = [], []
    for node in graph.nodes:
        read = [v for v in node.inputs() if v.const is None]
        early = all(id(v) in ready or id(v.owner) in ready for v in read)
        if early and all(out.numel <= SMALL for out in node.outs):
            ready |= {id(out) for out in node.outs}
            first.append(node)
        else:
            rest.append(node)
    graph.nodes = [*first, *rest]


def pick_at_once(graph: Graph) -> None:
    """Pick the rows of many tables by one index, of one sample, as one row of all side by side."""
    by_index: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if _is_pick(node):
            index = node.args[1][0]  # (1,), perhaps a view of all of another
            by_index.setdefault(id(index.owner if index.owner.numel == 1 else index), []).append(
                node
            )
    looks: dict[int, list[Value]] = {}
    for value in {id(v): v for v in graph.values()}.values():
        looks.setdefault(id(value.owner), []).append(value)
    for nodes in by_index.values():
        if len(nodes) < 2:
            continue
        table = torch.cat([node.args[0].const for node in nodes], 1)
        wide = Value(tuple(table.shape), tuple(table.stride()), 0, table.dtype, const=table)
        row = Value((1, wide.shape[1]), (wide.shape[1], 1), 0, table.dtype)
        row.node = Node("aten", aten.index.Tensor, (wide, nodes[0].args[1]), {}, [row])
        graph.nodes.insert(graph.nodes.index(nodes[0]), row.node)
        start = 0
        for node in nodes:
            for look in looks[id(node.out)]:
                look.offset += start
            node.out.root, node.out.node = row, None
            start += node.out.shape[1]
            graph.nodes.remove(node)
        graph.note("rows of tables picked at once")
    graph.link()


def _is_pick(node: Node) -> bool:
    """Whether a node picks one row of a constant table."""
    if node.kind != "aten" or node.target != aten.index.Tensor or len(node.args[1]) != 1:
        return False
    table, index = node.args[0], node.args[1][0]
    plain = table.const is not None and len(table.shape) == 2 and table.dtype == torch.float32
    return plain and isinstance(index, Value) and index.const is None and index.shape == (1,)


def spell_group_norms(graph: Graph) -> None:
    """Write a group norm as the scale and the offset that it is, and the two steps with them."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.kind != "group_norm" or any(value.const is None for value in node.args[1:]):
            nodes.append(node)
            continue
        x, out = node.args[0], node.out
        groups, has_gain, has_shift, eps = node.target
        affine = [value.const for value in node.args[1:]]
        gain = affine[0] if has_gain else None
        target = groups, gain, affine[-1] if has_shift else None, eps
        parts = [Value(x.shape[:2], (x.shape[1], 1), 0, torch.float32) for _ in range(2)]
        scales = Node("group_scales", target, (x,), {}, parts)
        looks = []
        for part in parts:
            part.node = scales
            shape = (*x.shape[:2], *(1,) * (len(x.shape) - 2))
            stride = (x.shape[1], *(1,) * (len(x.shape) - 1))
            looks.append(Value(shape, stride, 0, torch.float32, root=part))
        product = Value(out.shape, out.stride, 0, out.dtype)
        product.node = Node("aten", aten.mul.Tensor, (x, looks[0]), {}, [product])
        out.node = Node("aten", aten.add.Tensor, (product, looks[1]), {}, [out])
        nodes += [scales, product.node, out.node]
        graph.note("group norm as two steps")
    graph.nodes = nodes
    graph.link()


def hold_operands(graph: Graph) -> None:
    """Give operands of layers that operators of torch make a place that is known before a run."""
    held: dict[int, Value] = {}
    nodes: list[Node] = []
    after: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if node.kind != "layer":
            continue
        args = list(node.args)
        for place, value in enumerate(args[1:], 1):
            owner = value.owner
            maker = owner.node
            fixed = maker is None or maker.kind in NATIVE or graph.is_output(owner)
            if value.const is not None or fixed or owner.numel > SMALL or not owner.shape:
                continue
            if id(owner) not in held:
                copy = Value(owner.shape, owner.stride, 0, owner.dtype)
                copy.node = Node("hold", None, (owner,), {}, [copy])
                held[id(owner)] = copy
                assert maker is not None
                after.setdefault(id(maker), []).append(copy.node)
            copy = held[id(owner)]
            args[place] = (
                copy
                if value is owner
                else Value(value.shape, value.stride, value.offset, value.dtype, root=copy)
            )
        node.args = tuple(args)
    for node in graph.nodes:
        nodes += [node, *after.get(id(node), ())]
    graph.nodes = nodes
    graph.link()
    graph.prune()
