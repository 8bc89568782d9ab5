"""Values that live at once never share memory, and no value needs more than its bytes."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitcompress.program.ir import Graph, Node, Value
from bitcompress.program.place import ALIGN, Span, arena, in_place, offsets, spans
from bitcompress.program.spec import LayerSpec, RowStep

lives = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 20), st.integers(0, 8)), min_size=1, max_size=25
)


def value(*shape: int) -> Value:
    return Value(shape, torch.empty(shape).stride(), 0, torch.float32)


@given(lives)
def test_spans_that_overlap_in_time_do_not_in_memory(given_: list[tuple[int, int, int]]) -> None:
    needed = [Span(value(1), ALIGN * n, first, first + more) for n, first, more in given_]
    places, total = offsets(needed)
    for one, two in combinations(needed, 2):
        a, b = places[id(one.value)], places[id(two.value)]
        apart = a + one.size <= b or b + two.size <= a
        assert apart or one.last < two.first or two.last < one.first
    assert total <= sum(span.size for span in needed)
    assert all(places[id(s.value)] + s.size <= total for s in needed)


def chain_of(*sizes: int) -> Graph:
    """A native node after the other, each reading the one before."""
    values = [value(n) for n in sizes]
    graph = Graph([values[0]])
    for x, y in zip(values[:-1], values[1:], strict=True):
        y.node = Node("layer", None, (x,), {}, [y])
        graph.nodes.append(y.node)
    graph.outputs = [values[-1]]
    graph.link()
    return graph


def test_a_chain_needs_the_room_of_two_values() -> None:
    graph = chain_of(*[1000] * 12)
    held = arena(graph)
    assert len(held) == 10  # neither the input nor the output
    starts = {t.data_ptr() for t in held.values()}
    assert len(starts) == 2 and all(start % ALIGN == 0 for start in starts)


def test_a_view_keeps_the_memory_that_it_looks_at() -> None:
    graph = chain_of(100, 100, 100, 100)
    early = graph.nodes[0].out
    look = Value((50,), (1,), 50, torch.float32, root=early)
    last = graph.nodes[-1]
    last.args = (*last.args, look)
    graph.link()
    assert {s.value: s.last for s in spans(graph)}[early] == 2


def adding(late: bool = False, twice: bool = False, view: bool = False) -> tuple[Graph, Value]:
    """A chain whose third layer adds the output of the first and stores what comes out.

    late: somebody reads that output after it. twice: the third layer's own input is its operand.
    view: it adds rows that are not all of the memory. Returns: the graph and that output.
    """
    x, first, second, third, last = (value(*size) for size in [(60, 16)] * 5)
    early = second if twice else first
    look = Value((30 if view else 60, 16), (16, 1), 0, torch.float32, root=early)
    spec = LayerSpec(None, 1, tail=(RowStep("add", 1), RowStep("store")))
    nodes = [
        Node("layer", LayerSpec(None, 1), (x,), {}, [first]),
        Node("layer", LayerSpec(None, 1), (first,), {}, [second]),
        Node("layer", spec, (second, look), {}, [third]),
        Node("layer", LayerSpec(None, 1), (third, *((first,) if late else ())), {}, [last]),
    ]
    for node in nodes:
        node.out.node = node
    graph = Graph([x], nodes, [last])
    graph.link()
    return graph, early


def test_a_sum_is_written_over_what_nobody_reads_again() -> None:
    graph, early = adding()
    held = arena(graph)
    assert held[id(early)].data_ptr() == held[id(graph.nodes[2].out)].data_ptr()


@pytest.mark.parametrize("how", ["late", "twice", "view"])
def test_a_sum_has_memory_of_its_own_where_its_operand_is_read_otherwise(how: str) -> None:
    graph, early = adding(**{how: True})
    held = arena(graph)
    sums = held[id(graph.nodes[2].out)]
    if how != "view":  # whoever is dead may lend its place
        assert held[id(early)].data_ptr() != sums.data_ptr()
    left, whose = in_place(graph, spans(graph))
    assert not whose and len(left) == 3
