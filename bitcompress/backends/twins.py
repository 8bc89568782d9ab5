"""Values of a graph that are there with channels last too, and how others get there."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitcompress.backends.initializers import initializer


def to_last(rank: int) -> tuple[int, ...]:
    """The order that takes (N, C, ...) to (N, ..., C)."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> tuple[int, ...]:
    """The order that takes (N, ..., C) to (N, C, ...)."""
    return (0, rank - 1, *range(1, rank - 1))


def dims_of(value: Any) -> tuple[Any, ...] | None:
    """The sizes of a value, integers or the names of free ones; None where one is not known."""
    if value.shape is None:
        return None
    dims = tuple(s if isinstance(s, int) else s.value for s in value.shape)
    return None if None in dims else dims


class Twins:
    """Values (N, C, ...) of a graph that are there with channels last too, or can be."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.last: dict[Any, Any] = {}
        """Each value that is there with channels last, and the one that is."""
        self._picked: dict[Any, Any] = {}

    def of(self, node: Any, value: Any) -> Any:
        """The value with channels last, transposed before `node` where it is not there yet."""
        if value not in self.last:
            name = f"{value.name}_last"
            self.last[value] = self._transposed(value, to_last(len(value.shape)), name)
            self.graph.insert_before(node, self.last[value].producer())
        return self.last[value]

    def give_back(self, node: Any, number: int = 0) -> None:
        """An output of a node has channels last now: who reads it is given it channels first."""
        import onnx_ir as ir

        out = node.outputs[number]
        rank = len(out.shape)
        first = self._transposed(out, to_first(rank), f"{out.name}_first")
        first.shape = out.shape
        out.shape = ir.Shape([out.shape[axis] for axis in to_last(rank)])
        self.graph.insert_after(node, first.producer())
        for user, index in list(out.uses()):
            if user is not first.producer():
                user.replace_input_with(index, first)
        for place, output in enumerate(self.graph.outputs):
            if output is out:
                self.graph.outputs[place] = first
        self.last[first] = out

    def picked(self, node: Any, sizes: Any, order: tuple[int, ...]) -> Any:
        """A vector of integers in another order, made before `node`."""
        import onnx_ir as ir

        if (sizes, order) not in self._picked:
            name = f"{sizes.name}_{'_'.join(map(str, order))}"
            if sizes.is_initializer():
                made = self.constant(sizes.const_value.numpy()[list(order)], name)
            else:
                where = self.constant(np.array(order, np.int64), f"{name}_order")
                gather = ir.node("Gather", [sizes, where], attributes={"axis": 0})
                # Beside who made the vector, so that all who need it later find it made.
                self.graph.insert_after(sizes.producer(), gather)
                made = gather.outputs[0]
                made.name, made.dtype = name, ir.DataType.INT64
                made.shape = ir.Shape([len(order)])
            self._picked[sizes, order] = made
        return self._picked[sizes, order]

    def constant(self, numbers: Any, name: str) -> Any:
        """An initialiser; one of the same numbers that was made by this name before is it."""
        wanted, count = name, 0
        while (old := self.graph.initializers.get(name)) is not None:
            there = old.const_value.numpy()
            if there.dtype == numbers.dtype and np.array_equal(there, numbers):
                return old
            count += 1
            name = f"{wanted}_{count}"
        return initializer(self.graph, name, numbers)

    def _transposed(self, value: Any, perm: tuple[int, ...], name: str) -> Any:
        import onnx_ir as ir

        out = ir.node("Transpose", [value], attributes={"perm": list(perm)}).outputs[0]
        out.name, out.dtype = name, value.dtype
        out.shape = ir.Shape([value.shape[axis] for axis in perm])
        return out
