"""Attention in windows as one node: cuts, shifts, heads and joins become its table of places.

A chain of moves before and behind an attention is run once on the numbers 0, 1, 2, ..., at two
sizes. Where what comes out is what windows of some shape, shift and heads would give, the chain is
left out and these few numbers stand in its place; so sizes stay free, and it does not matter how
the moves were written. Anything else stays as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from bitcompress.backends import gathered
from bitcompress.backends.rolls import Turn, chain_to, is_move, swap_rolls

aten = torch.ops.aten
SIDES = ((40, 56), (64, 40))
"""Sides of pictures, at least, on which a chain is run; a window has several places in them."""
LARGEST = 1 << 26
"""Numbers of a value that is followed."""


@dataclass(frozen=True)
class Windowed:
    """A program whose window attentions are one node each.

    turned: of the layers, counted in their order, that now see their rows in another place: by what
        the input of the original is rolled to be that of this one.
    """

    program: Any
    turned: Mapping[int, Turn]


def windowed(program: Any) -> Windowed:
    """The exported program with its window attentions found. It is not changed itself."""
    graph = copy.deepcopy(program.graph)
    sizes = _sizes(graph)
    turned = swap_rolls(graph)
    for node in list(graph.nodes):
        if node.target == torch.ops.bitcompress.attention.default:
            _Search(graph, node, sizes).replace()
    graph.eliminate_dead_code()
    made = torch.export.ExportedProgram(
        root=program.graph_module, graph=graph, graph_signature=program.graph_signature,
        state_dict=program.state_dict, range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph, example_inputs=program.example_inputs,
        constants=program.constants,
    )  # fmt: skip
    return Windowed(made, turned)


class _No(Exception):
    """The moves are no windows."""


Sizes = dict[Any, int]
"""What each free size is."""


def _sizes(graph: fx.Graph) -> list[Sizes]:
    """Numbers for the free sizes of a program: two sets, or one where nothing is free."""
    made = []
    for number, sides in enumerate(SIDES):
        chosen: Sizes = {}
        for node in graph.nodes:
            value = node.meta.get("val")
            if node.op != "placeholder" or not isinstance(value, Tensor):
                continue
            shape: tuple[Any, ...] = tuple(value.shape)
            for axis, size in enumerate(shape):
                if isinstance(size, torch.SymInt):
                    least = 2 + number if axis < 2 else sides[axis % 2]
                    _choose(size.node.expr, least, chosen)
        made.append(chosen)
    return made if made[0] else made[:1]


def _choose(expression: Any, least: int, chosen: Sizes) -> None:
    """Give the one unknown of an expression the least number that makes it so large."""
    unknown = [symbol for symbol in expression.free_symbols if symbol not in chosen]
    if len(unknown) == 1:
        (symbol,) = unknown
        known = {s: n for s, n in chosen.items()}
        chosen[symbol] = next(
            n for n in range(1, 4096) if int(expression.subs({**known, symbol: n})) >= least
        )


def _number(value: Any, sizes: Sizes) -> Any:
    """A size as an integer."""
    if isinstance(value, torch.SymInt):
        try:
            return int(value.node.expr.subs(sizes))
        except TypeError as error:
            raise _No(f"a size does not follow from the inputs: {value}") from error
    return value


def _shape(node: fx.Node, sizes: Sizes) -> tuple[int, ...]:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise _No("a value has no shape")
    return tuple(_number(size, sizes) for size in value.shape)


def _places(chain: Sequence[fx.Node], sizes: Sizes) -> Tensor:
    """Where in the first value of a chain each number of the last one comes from."""
    shape = _shape(chain[0], sizes)
    if math.prod(shape) > LARGEST:
        raise _No("a value is too large to be followed")
    at: Any = torch.arange(math.prod(shape), dtype=torch.int32).reshape(shape)
    for before, node in zip(chain, chain[1:], strict=False):

        def given(n: fx.Node, before: fx.Node = before, at: Any = at) -> Any:
            return at if n is before else _number(n.meta["val"], sizes)

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), given)
        function: Callable[..., Any] = node.target  # type: ignore[assignment]
        at = function(*args, **kwargs)
    if not isinstance(at, Tensor):
        raise _No("moves end in several values")
    return at


@dataclass(frozen=True)
class _Cut:
    """How windows lie in a picture, and the heads in its channels."""

    window: tuple[int, int]
    shift: tuple[int, int]
    first: int


def _cut(places: Tensor, shape: Sequence[int], heads: int) -> _Cut:
    """What windows take a picture (N, H, W, ...) to places (B, rows, columns). Raises: _No."""
    count, height, width = shape[:3]
    channels, columns = math.prod(shape[3:]), places.shape[2]
    if places.shape[0] % heads:
        raise _No("heads do not divide the matrices")
    pixel = places[0, :, 0] // channels
    down, right = pixel // width, pixel % width
    high = len(set(down.tolist()))
    window = (high, len(pixel) // max(high, 1))
    if math.prod(window) != len(pixel) or height % window[0] or width % window[1]:
        raise _No("rows are no windows")
    cut = _Cut(window, (int(down[0]), int(right[0])), int(places[0, 0, 0]) % channels)
    table = gathered.window_table(count, height, width, cut.window, cut.shift)
    head = torch.arange(heads) * columns
    wanted = (
        table[:, None, :, None] * channels
        + cut.first
        + head[None, :, None, None]
        + torch.arange(columns)
    )
    if wanted.numel() != places.numel():
        raise _No("windows do not cover the picture once")
    if not torch.equal(wanted.reshape(places.shape), places.long()):
        raise _No("moves do something else than windows")
    return cut


class _Search:
    """One attention, and whether it works in windows."""

    def __init__(self, graph: fx.Graph, node: fx.Node, sizes: list[Sizes]) -> None:
        self.graph, self.node, self.sizes = graph, node, sizes
        self.lead = node.args[0].meta["val"].dim()  # type: ignore[union-attr]

    def replace(self) -> None:
        """Put the node in place of the attention and the moves around it, where it is one."""
        try:
            self._replace()
        except (_No, RuntimeError, KeyError, IndexError, TypeError, AttributeError):
            return  # it stays an attention among moves, which computes the same

    def _replace(self) -> None:
        if self.lead < 3:
            raise _No("there are no heads")
        heads = _shape(self.node.args[0], self.sizes[0])[-3]  # type: ignore[arg-type]
        q, factor = _unscaled(self.node.args[0])  # type: ignore[arg-type]
        sources, cuts = [], []
        for part, value in enumerate((q, *self.node.args[1:3])):
            source, cut = self._source(value, heads, turned=part == 1)  # type: ignore[arg-type]
            sources.append(source)
            cuts.append(cut)
        if len({(cut.window, cut.shift) for cut in cuts}) != 1:
            raise _No("queries, keys and values lie in other windows")
        last = self._last(heads, cuts[0])
        widths = [
            int(self.node.args[i].meta["val"].shape[-1])  # type: ignore[union-attr]
            for i in (0, 2)
        ]
        with self.graph.inserting_before(self.node):
            made = self.graph.call_function(
                torch.ops.bitcompress.windows.default,
                (
                    *sources, *self.node.args[3:], list(cuts[0].window), list(cuts[0].shift), heads,
                    widths, [cut.first for cut in cuts], factor,
                ),
            )  # fmt: skip
        made.meta = {
            **self.node.meta,
            "val": last.meta["val"],
        }
        last.replace_all_uses_with(made)

    def _source(self, value: fx.Node, heads: int, *, turned: bool) -> tuple[fx.Node, _Cut]:
        """The picture, as far back as one is found, that moves cut into this operand."""
        chain = chain_to(value)
        said = _No("no moves lead to the attention")
        for start in range(len(chain) - 1):
            source = chain[start]
            if not isinstance(source.meta.get("val"), Tensor) or source.meta["val"].dim() < 4:
                continue
            try:
                found = {self._cut_at(chain[start:], sizes, heads, turned) for sizes in self.sizes}
            except _No as error:
                said = error
                continue
            if len(found) == 1:
                return source, found.pop()
        raise said

    def _cut_at(self, chain: Sequence[fx.Node], sizes: Sizes, heads: int, turned: bool) -> _Cut:
        places = _places(chain, sizes)
        places = places.transpose(-2, -1) if turned else places
        return _cut(places.reshape(-1, *places.shape[-2:]), _shape(chain[0], sizes), heads)

    def _last(self, heads: int, cut: _Cut) -> fx.Node:
        """The last picture that moves alone make of the output. Raises: _No where there is none."""
        chain = [self.node]
        while len(chain[-1].users) == 1:
            (user,) = chain[-1].users
            if not is_move(user) or user.args[0] is not chain[-1]:
                break
            chain.append(user)
        for end in range(len(chain), 1, -1):
            last = chain[end - 1]
            if last.meta["val"].dim() == 4 and all(
                self._joins(chain[:end], sizes, heads, cut) for sizes in self.sizes
            ):
                return last
        raise _No("what comes out is no picture")

    def _joins(self, chain: Sequence[fx.Node], sizes: Sizes, heads: int, cut: _Cut) -> bool:
        places = _places(chain, sizes)
        rows, columns = _shape(self.node, sizes)[-2:]
        if places.shape[-1] != heads * columns or places.numel() != math.prod(
            _shape(self.node, sizes)
        ):
            return False
        where = torch.empty(places.numel(), dtype=torch.int32)
        where[places.reshape(-1).long()] = torch.arange(places.numel(), dtype=torch.int32)
        try:
            back = _cut(where.reshape(-1, rows, columns), places.shape, heads)
        except _No:
            return False
        return (back.window, back.shift, back.first) == (cut.window, cut.shift, 0)


def _unscaled(q: fx.Node) -> tuple[fx.Node, float]:
    """Queries before they were multiplied by a number, and that number."""
    if q.target == aten.mul.Tensor and isinstance(q.args[1], int | float):
        return q.args[0], float(torch.tensor(q.args[1], dtype=torch.float32))  # type: ignore[return-value]
    return q, 1.0
