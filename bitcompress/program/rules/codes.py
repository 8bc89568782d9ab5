"""Between two packed layers numbers stay codes: the first cuts its output for the second.

That is exact, since a cut is what the second layer would do first; and a code takes one byte where
a real takes four.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from bitcompress.packed import ops
from bitcompress.packed.gathered import Gathered, OutGrid, Places
from bitcompress.program.ir import Graph, Node, Rows, Value, rows_of
from bitcompress.program.moves import uses
from bitcompress.program.rules.steps import in_axis, out_axis
from bitcompress.program.spec import Grid, LayerSpec, RowStep


def grid_of(spec: LayerSpec) -> Grid:
    """By what a layer cuts its input."""
    m = spec.module
    assert m is not None
    scale, offset = ops.channel_grid(m.input_scale, m.input_offset, m.stretch, m.shift)
    return Grid.of(scale, offset, m.input_bits)


def stay_on_codes(graph: Graph) -> None:
    """Let layers and attentions hand on codes where every reader takes the same."""
    for node in graph.nodes:
        if node.kind not in ("layer", "attention") or graph.is_output(node.out):
            continue
        if node.kind == "layer" and node.target.shuffle:
            continue
        readers = uses(node.out)
        if not readers:
            continue
        if _for_attention(graph, node, readers):
            continue
        mine = rows_of(node.out, out_axis(node) if node.kind == "layer" else None)
        if mine is None:
            continue
        grids = [_wanted(user, seen, mine) for user, seen in readers]
        if any(grid is None for grid in grids):
            if node.kind == "layer":
                _beside_reals(graph, node, readers, mine)
            continue
        first = grids[0]
        assert first is not None
        if not all(grid is not None and grid.same(first) for grid in grids):
            graph.note("codes not kept: the next layers cut differently")
            continue
        target = _with_codes(node.target, first, mine.channels)
        if target is None:
            graph.note("codes not kept: an attention writes codes of one width")
            continue
        node.target = target
        node.out.dtype = torch.uint8
        for user, _ in readers:
            user.target = user.target.but(codes_in=True)
        graph.note("codes kept between layers")


def _beside_reals(graph: Graph, node: Node, readers: list[tuple[Node, Value]], mine: Rows) -> None:
    """Some readers want reals, others would cut them: both are written in one pass.

    What stands before the cut, a norm say, is done behind the layer instead.
    """
    cut = [(u, v, _wanted(u, v, mine, heads=True)) for u, v in readers]
    takers = [(user, seen, grid) for user, seen, grid in cut if grid is not None]
    if not takers or takers[0][0].target.module is None:
        return
    head, grid = takers[0][0].target.head, takers[0][2]
    takers = [t for t in takers if t[0].target.head == head and t[2].same(grid)]
    reals = node.out
    codes = Value(reals.shape, reals.stride, 0, torch.uint8, node=node)
    spec: LayerSpec = node.target
    node.target = spec.but(tail=(*spec.tail, RowStep("store"), *head), codes_out=grid)
    node.outs = [reals, codes]
    for user, seen, _ in takers:
        look = Value(seen.shape, seen.stride, 0, torch.uint8, root=codes)
        graph.unlink(user)
        user.args = (look, *user.args[1:])
        graph.relink(user)
        user.target = user.target.but(head=(), codes_in=True)
    graph.note("codes written beside reals")


def _with_codes(
    spec: LayerSpec | Gathered, grid: Grid, channels: int
) -> LayerSpec | Gathered | None:
    """The layer or attention with its output cut; None where it cannot cut so."""
    if isinstance(spec, LayerSpec):
        return spec.but(codes_out=grid)
    top = int(grid.top[0])
    if bool((grid.top != top).any()) or len(grid.scale) not in (1, channels):
        return None
    out = OutGrid(grid.scale, grid.offset, top.bit_length())
    return replace(spec, out_grid=out, _bound={})


def _wanted(user: Node, seen: Value, mine: Rows, *, heads: bool = False) -> Grid | None:
    """By what a reader would cut what it reads; None where it needs the reals.

    heads: whether it may do steps first that read nothing else.
    """
    if user.kind != "layer" or user.target.module is None or user.target.codes_in:
        return None
    head = user.target.head
    if head and (not heads or any(step.operand > 0 for step in head)):
        return None
    if user.args[0] is not seen or any(v is seen for v in user.args[1:]):
        return None
    rows = rows_of(seen, in_axis(user))
    if rows is None or rows.owner is not mine.owner or not rows.whole:
        return None
    return grid_of(user.target) if mine.channels == rows.channels else None


def _for_attention(graph: Graph, node: Node, readers: list[tuple[Node, Value]]) -> bool:
    """A linear whose channels are queries, keys and values: attentions read them as codes.

    Whoever else reads the linear gets its reals, written in the same pass.
    Returns: whether it is so now.
    """
    users = list({id(u): u for u, _ in readers if u.kind == "attention"}.values())
    others = any(u.kind != "attention" for u, _ in readers)
    rows = rows_of(node.out, out_axis(node)) if node.kind == "layer" else None
    if not users or rows is None or node.target.pictures:
        return False
    if any(value.owner is not node.out.owner for user in users for value in user.args):
        return False
    found = _grid_of_heads(users, rows.channels)
    if found is None:
        graph.note("queries, keys and values stay real: heads share channels on other grids")
        return False
    grid, factor, all_channels = found
    if not (all_channels or others):
        return False
    target: LayerSpec = node.target
    codes = node.out
    if others:
        target = target.but(tail=(*target.tail, RowStep("store")))
        codes = Value(node.out.shape, node.out.stride, 0, torch.uint8, node=node)
        node.outs = [node.out, codes]
    if bool((factor != 1).any()):
        place = len(node.args)
        constant = Value((rows.channels,), (1,), 0, torch.float32, const=factor)
        node.args = (*node.args, constant)
        constant.users.append(node)
        target = target.but(tail=(*target.tail, RowStep("mul", place, "channel")))
    node.target = target.but(codes_out=grid)
    codes.dtype = torch.uint8
    for user in users:
        graph.unlink(user)
        user.args = (codes, codes, codes)
        graph.relink(user)
        user.target = replace(user.target, factor=1.0, _bound={})
    graph.note("queries, keys and values kept as codes")
    return True


def _grid_of_heads(users: list[Node], channels: int) -> tuple[Grid, Tensor, bool] | None:
    """The grid of each channel by the head that it belongs to, what queries are multiplied by, and
    whether every channel belongs to one; None where two want a channel."""
    scale, offset = torch.ones(channels), torch.zeros(channels)
    top, factor = torch.ones(channels), torch.ones(channels)
    seen = torch.zeros(channels, dtype=torch.bool)
    for user in users:
        spec: Gathered = user.target
        heads = len(spec.q.starts) // len(spec.q.rows)
        parts = (
            (spec.q, spec.qk.a, spec.qk.bits[0], spec.depth, spec.factor),
            (spec.k, spec.qk.b, spec.qk.bits[1], spec.depth, 1.0),
            (spec.v, spec.av.b, spec.av.bits[1], spec.values, 1.0),
        )
        for places, grid, bits, width, times in parts:
            first = _first_channels(places, heads, channels)
            each = [_of_heads(part, heads) for part in grid]
            if first is None or each[0] is None or each[1] is None:
                return None
            for head in range(heads):
                at = slice(int(first[head]), int(first[head]) + width)
                if bool(seen[at].any()) or at.stop > channels:
                    return None
                seen[at] = True
                scale[at], offset[at] = each[0][head], each[1][head]
                top[at], factor[at] = float((1 << bits) - 1), times
    return Grid(scale, offset, top), factor, bool(seen.all())


def _first_channels(places: Places, heads: int, channels: int) -> Tensor | None:
    """The first channel of each head, where all rows have the same."""
    within = places.rows % channels
    if not bool((within == within[0, 0]).all()):
        return None
    return places.starts[:heads] + int(within[0, 0])


def _of_heads(part: Tensor, heads: int) -> Tensor | None:
    """A grid's numbers, one a head; None where they differ in another way."""
    if part.numel() == 1:
        return part.reshape(1).expand(heads)
    flat = part.reshape(-1, heads)
    return flat[0] if bool((flat == flat[0]).all()) else None
