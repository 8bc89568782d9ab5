"""One run of a packed model, written down: every operator of torch, packed layers as one step each.

The run computes as always; it is only watched. What cannot be replayed from a list is refused with
the operator that stands in the way: numbers read by Python, random numbers, memory that is changed
through a view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from bitcompress.packed.tape import Recorder, set_recorder
from bitcompress.program.ir import Graph, Node, Value

aten = torch.ops.aten


class NotReplayable(Exception):
    """A run that a list of steps would not repeat; the text says what stands in the way."""


READS = {
    aten._local_scalar_dense.default: "Python reads a number of a tensor",
    aten.is_nonzero.default: "Python reads a number of a tensor",
    aten.equal.default: "Python compares tensors",
    aten.nonzero.default: "a shape follows from numbers",
    aten.masked_select.default: "a shape follows from numbers",
    aten.as_strided.default: "memory is read by strides",
    aten.as_strided_.default: "memory is read by strides",
}
"""Operators that no list of steps can repeat, and why."""


WHOLE = torch._C.DispatchKey.CompositeImplicitAutograd
SHARES = frozenset({aten._unsafe_view.default})
"""Operators whose output is a view though they do not say so."""


class Record(TorchDispatchMode):
    """Writes the operators of this thread into a graph, in order."""

    def __init__(self, inputs: Sequence[Tensor], where: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: Any = WeakIdKeyDictionary()
        self.where = where
        self.graph = Graph([self._new(x) for x in inputs])
        self.changed: list[tuple[int, Value, str]] = []
        self.reason = ""
        self.before: list[Recorder | None] = []

    def __enter__(self) -> Record:
        self.before.append(set_recorder(self))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        set_recorder(self.before.pop())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if WHOLE not in func.py_kernels:  # else its decomposition is for compilers, and slow
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if not self.reason:
            self._note(func, args, kwargs, out)
        return out

    def step(
        self, kind: str, target: Any, inputs: Sequence[Tensor], compute: Callable[[], Tensor]
    ) -> Tensor:
        """See packed/tape.py."""
        before = set_recorder(None)
        try:
            with _disable_current_modes():
                out = compute()
        finally:
            set_recorder(before)
        values = tuple(self._value(x) for x in inputs)
        node = Node(kind, target, values, {}, [self._new(out)], self.where())
        node.out.node = node
        if all(value.const is not None for value in values):
            node.out.const = out
        else:
            self.graph.nodes.append(node)
        return out

    def finish(self, outputs: Any) -> Graph:
        """The graph of the run that gave `outputs`. Raises: NotReplayable."""
        if self.reason:
            raise NotReplayable(self.reason)
        flat = tree_flatten(outputs)[0]
        self.graph.outputs = [self._value(x) if isinstance(x, Tensor) else x for x in flat]
        self.graph.link()
        self._check_changes()
        return self.graph

    def _note(self, func: Any, args: Sequence[Any], kwargs: Any, out: Any) -> None:
        refused = READS.get(func) or (
            "random numbers are drawn" if torch.Tag.nondeterministic_seeded in func.tags else ""
        )
        if refused:
            self.reason = f"{refused} ({func} in {self.where() or 'the model'})"
            return
        noted = tree_map(lambda x: self._value(x) if isinstance(x, Tensor) else x, (args, kwargs))
        node = Node("aten", func, tuple(noted[0]), noted[1], [], self.where())
        read = list(node.inputs())
        made = [x for x in tree_flatten(out)[0] if isinstance(x, Tensor)]
        constant = all(value.const is not None for value in read)
        for x in made:
            if any(x is old for old in _tensors((args, kwargs))):  # in place
                value = self._changed(func, x)
            else:
                value = self._new(x, self._root(func, x, read))
            value.node = node
            if constant:
                value.const = x
            node.outs.append(value)
        if func._schema.is_mutable and not node.outs:
            self.reason = f"memory is changed by {func}"
        if not constant:
            self.graph.nodes.append(node)

    def _root(self, func: Any, x: Tensor, read: Sequence[Value]) -> Value | None:
        """Whose memory a fresh tensor is a view of."""
        if func not in SHARES and all(ret.alias_info is None for ret in func._schema.returns):
            return None
        return read[0] if read else None

    def _changed(self, func: Any, x: Tensor) -> Value:
        """What a tensor is after an operator has changed it: another value from here on."""
        old = self._value(x)
        if old.const is not None and old.node is None:
            self.reason = f"a tensor from outside of the run is changed by {func}"
        if old.root is not None:
            self.reason = f"memory is changed through a view by {func} in {self.where()}"
        self.changed.append((len(self.graph.nodes), old, str(func)))
        return self._new(x)

    def _check_changes(self) -> None:
        """Nobody may read the old numbers, or a view of them, once they have been changed."""
        for place, old, func in self.changed:
            for node in self.graph.nodes[place + 1 :]:
                if any(value.owner is old for value in node.inputs()):
                    raise NotReplayable(f"memory changed by {func} is read through a view")
            if any(isinstance(out, Value) and out.owner is old for out in self.graph.outputs):
                raise NotReplayable(f"memory changed by {func} is an output")
            if old in self.graph.inputs:
                raise NotReplayable(f"an input is changed by {func}")

    def _value(self, x: Tensor) -> Value:
        found = self.known.get(x)
        if found is None:
            found = self._new(x)
            found.const = x
        return found  # type: ignore[no-any-return]

    def _new(self, x: Tensor, root: Value | None = None) -> Value:
        here = int(x.storage_offset())
        start = here if root is None else root.owner.start
        value = Value(
            tuple(x.shape), tuple(x.stride()), here - start, x.dtype, start=start,
            root=root,
        )  # fmt: skip
        self.known[x] = value
        return value


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_flatten(tree)[0] if isinstance(x, Tensor)]
