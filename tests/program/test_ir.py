"""Rows of a value are its memory read as a matrix, whatever views it is made of."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitcompress.program.ir import Graph, Node, Value, channel_axis, rows_of

sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def of(t: Tensor, owner: Value | None = None) -> Value:
    return Value(tuple(t.shape), tuple(t.stride()), t.storage_offset(), t.dtype, root=owner)


@given(sizes, st.integers(0, 3), st.integers(0, 3), st.permutations(range(4)))
def test_rows_hold_the_numbers_of_the_value(
    shape: list[int], before: int, behind: int, order: list[int]
) -> None:
    channels = shape[-1]
    whole = torch.arange(float(torch.Size(shape[:-1]).numel() * (before + channels + behind)))
    memory = whole.view(*shape[:-1], before + channels + behind)
    x = memory[..., before : before + channels]
    turned = x.permute([i for i in order if i < len(shape)])
    owner = of(memory)
    axis = next(
        i for i, j in enumerate([i for i in order if i < len(shape)]) if j == len(shape) - 1
    )
    rows = rows_of(of(turned, owner), axis)
    assert rows is not None and rows.owner is owner
    matrix = torch.as_strided(whole, (rows.rows, rows.channels), (rows.pitch, 1), rows.offset)
    assert torch.equal(matrix, x.reshape(-1, channels))
    assert rows.whole == (before + behind == 0) or rows.rows == 1


def test_what_is_no_matrix_of_rows() -> None:
    x = torch.zeros(4, 6, 8)
    assert rows_of(of(x[:, ::2])) is not None  # every second row: one distance still
    assert rows_of(of(x[:, :5])) is None  # two distances
    assert rows_of(of(x[..., ::2])) is None  # channels apart
    assert rows_of(of(x[:1, :1].expand(4, 6, 8))) is None
    assert rows_of(of(torch.zeros(0, 3))) is None
    assert rows_of(of(torch.zeros(()))) is None


def test_where_channels_are() -> None:
    pictures = torch.zeros(2, 3, 4, 5)
    last = pictures.contiguous(memory_format=torch.channels_last)
    assert channel_axis(of(pictures)) == 3 and channel_axis(of(last)) == 1
    assert channel_axis(of(torch.zeros(2, 1, 4, 5)), True) == 1
    assert channel_axis(of(torch.zeros(2, 1, 4, 5))) == 3
    assert channel_axis(of(torch.zeros(6, 7))) == 1


def test_nodes_that_nobody_reads_are_dropped() -> None:
    x = of(torch.zeros(3))
    graph, made = Graph([x]), []
    for source in (0, 0, 2):
        y = of(torch.zeros(3))
        y.node = Node("aten", None, ([x, *made][source], [None, x]), {"k": {"a": x}}, [y])
        graph.nodes.append(y.node)
        made.append(y)
    graph.outputs = [made[2], 7]
    graph.link()
    assert [len(list(n.inputs())) for n in graph.nodes] == [3, 3, 3]
    graph.prune()
    assert [n.out for n in graph.nodes] == [made[1], made[2]]
    assert graph.is_output(made[2]) and not graph.is_output(made[1])
