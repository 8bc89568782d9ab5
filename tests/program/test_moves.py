"""Where a chain of moves takes each number, against the chain run on numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bitcompress.program import moves
from bitcompress.program.ir import Value
from bitcompress.program.record import Record

CHAINS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x.view(x.shape),
    "windows": lambda x: x.view(2, 3, 2, 4, 2, 5).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 5),
    "shifted": lambda x: x.roll((-1, -1), (1, 2)).view(2, 3, 2, 8, 5).transpose(2, 3).contiguous(),
    "heads": lambda x: x.reshape(2, 48, 1, 5).transpose(1, 2),
    "a part": lambda x: x[:, 2:4, ::3].flip(1),
    "split": lambda x: x.split(2, 1)[1].chunk(2, -2)[0].unbind(0)[1],
}


def recorded(chain: Callable[[Tensor], Tensor]) -> tuple[Value, Value]:
    x = torch.randn(2, 6, 8, 5)
    record = Record([x])
    with torch.no_grad(), record:
        y = chain(x)
    graph = record.finish(y)
    return graph.inputs[0], graph.outputs[0]


@pytest.mark.parametrize("name", CHAINS)
def test_places_are_those_of_the_numbers(name: str) -> None:
    source, value = recorded(CHAINS[name])
    assert moves.origin(value) is source
    x = torch.randn(2, 6, 8, 5)
    places = moves.places_of(value, source)
    assert torch.equal(x.reshape(-1)[places.long()], CHAINS[name](x))


def test_what_is_no_move_ends_the_way() -> None:
    source, value = recorded(lambda x: (x * 2).permute(1, 0, 2, 3).contiguous())
    found = moves.origin(value)
    assert found is not source and found.node is not None
    assert moves.origin(value, (torch.ops.aten.mul.Tensor,)) is source


def test_two_chains_of_one_signature_do_the_same() -> None:
    def signature(name: str) -> Any:
        source, value = recorded(CHAINS[name])
        return moves.signature(moves.trail(value, source), source, value)

    known = [signature(name) for name in CHAINS]
    assert len(set(known)) == len(CHAINS)
    assert known == [signature(name) for name in CHAINS]


def test_who_reads_a_value_through_views() -> None:
    source, value = recorded(lambda x: x.permute(0, 3, 1, 2)[:, 1:].relu() + x.view(2, -1).sum())
    readers = [str(node.target) for node, _ in moves.uses(source)]
    assert readers == ["aten.relu.default", "aten.sum.default"]
    assert not moves.is_dense(Value((2, 3), (4, 1), 0, torch.float32))
    assert moves.is_dense(Value((2, 3), (1, 2), 0, torch.float32))
