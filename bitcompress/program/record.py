"""One run of a packed model, written down: every operator of torch, packed layers as one step each.

The run computes as always; it is only watched. What cannot be replayed from a list is refused with
the operator that stands in the way: numbers read by Python, random numbers, memory that is changed
through a view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from bitcompress.packed.tape import Recorder, set_recorder
from bitcompress.program.changes import another, written
from bitcompress.program.ir import Graph, Node, Value
from bitcompress.program.refusals import MAY_READ, Unseen, refusal

aten = torch.ops.aten


class NotReplayable(Exception):
    """A run that a list of steps would not repeat; the text says what stands in the way."""


WHOLE = torch._C.DispatchKey.CompositeImplicitAutograd
FRESH = frozenset({aten.lift_fresh.default})
"""Operators whose output is none, though they say so: nobody else has what they are given."""


class Record(TorchDispatchMode):
    """Writes the operators of this thread into a graph, in order."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: Any = WeakIdKeyDictionary()
        self.graph = Graph([self._new(x) for x in inputs])
        self.outside: list[Tensor] = []
        """Tensors that were there before the run and are no inputs."""
        self.stale: dict[int, tuple[Value, str]] = {}
        """Values whose memory has been changed since, by identity, and by whom."""
        self.memory = {x.untyped_storage().data_ptr() for x in inputs}
        """Where numbers lie that depend on the inputs."""
        self.reason = ""
        self.before: list[Recorder | None] = []
        self.unseen = Unseen(self._told)

    def __enter__(self) -> Record:
        self.before.append(set_recorder(self))
        self.unseen.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.unseen.__exit__(*error)  # type: ignore[no-untyped-call]
        set_recorder(self.before.pop())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():  # an operator is no call of the model's code
            if WHOLE not in func.py_kernels:  # else its decomposition is for compilers, and slow
                with self:
                    parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
            if self.reason or func in FRESH:
                return self._fresh(func(*args, **kwargs))
            read = [self._read(x) for x in _tensors((args, kwargs))]
            constant = all(value.const is not None for value in read)
            changed = written(func, args, kwargs)
            self.reason = self.reason or refusal(func, args, constant)
            before = {id(x): self._before_change(func, x, constant) for x in changed}
            out = func(*args, **kwargs)
            why = self.reason or self._note(func, args, kwargs, out, before)
            self.reason = why and f"{why} ({func})"
            return out

    def step(
        self, kind: str, target: Any, inputs: Sequence[Tensor], compute: Callable[[], Tensor]
    ) -> Tensor:
        """See packed/tape.py."""
        with torch._C.DisableTorchFunction():
            before = set_recorder(None)
            try:
                with _disable_current_modes():
                    out = compute()
            finally:
                set_recorder(before)
            if not self.reason:
                self._note_step(kind, target, inputs, out)
            return out

    def _note_step(self, kind: str, target: Any, inputs: Sequence[Tensor], out: Tensor) -> None:
        values = tuple(self._read(x) for x in inputs)
        node = Node(kind, target, values, {}, [self._new(out)])
        node.out.node = node
        if all(value.const is not None for value in values):
            node.out.const = out
        else:
            self._memory_of(out)
            self.graph.nodes.append(node)

    def finish(self, outputs: Any) -> Graph:
        """The graph of the run that gave `outputs`. Raises: NotReplayable."""
        flat = tree_flatten(outputs)[0]
        self.graph.outputs = [self._read(x) if isinstance(x, Tensor) else x for x in flat]
        for out in self.graph.outputs:
            if isinstance(out, Value) and out.const is not None:
                self.reason = self.reason or "an output does not depend on the inputs"
        if self.reason:
            raise NotReplayable(self.reason)
        self.graph.link()
        return self.graph

    def _note(
        self, func: Any, args: Sequence[Any], kwargs: Any, out: Any, before: dict[int, Value]
    ) -> str:
        """Write an operator down; `before`: what the tensors that it changed were.

        Returns: why it cannot be repeated; empty where it can.
        """
        noted = tree_map(
            lambda x: (before.get(id(x)) or self._value(x)) if isinstance(x, Tensor) else x,
            (args, kwargs),
        )
        node = Node("aten", func, tuple(noted[0]), noted[1], [])
        read = list(node.inputs())
        made = _tensors(out)
        constant = all(value.const is not None for value in read)
        if before:
            if any(all(id(x) != key for x in made) for key in before):
                return "memory is changed that is no output"
            if constant:
                return ""  # the tensor itself holds its numbers
            node.target = another(func, args, kwargs)
            if node.target is None:
                return "memory is changed"
        given = _tensors((args, kwargs))
        for x in made:
            if id(x) not in before and any(x is t for t in given):
                continue  # an argument as it was
            old = before.get(id(x))
            if old is not None:
                self.stale[id(old.owner)] = old.owner, str(func)
            value = self._new(x, None if old is not None else self._root(x, given))
            value.node = node
            if constant:
                value.const = x
            elif value.root is None:
                self._memory_of(x)
            node.outs.append(value)
            if value.root is not None and value.dtype != value.owner.dtype:
                return "memory is read as another type"
        if node.outs and not constant:
            self.graph.nodes.append(node)
        return ""

    def _fresh(self, x: Any) -> Any:
        """A constant that the model's code has just made."""
        if isinstance(x, Tensor):
            value = self._new(x)
            value.const, value.node = x, Node("aten", None, (), {}, [value])
        return x

    def _root(self, x: Tensor, read: Sequence[Tensor]) -> Value | None:
        """Whose memory a fresh tensor looks at: schemas do not always say."""
        if x.layout != torch.strided or not x.numel():
            return None
        here = x.untyped_storage().data_ptr()
        for t in read:
            if t.layout == torch.strided and t.untyped_storage().data_ptr() == here:
                return self._value(t)
        return None

    def _before_change(self, func: Any, x: Tensor, constant: bool) -> Value:
        """What a tensor is that is about to be changed; others may have read its memory."""
        old = self._value(x)
        owner = old.owner
        if owner in self.graph.inputs:
            self.reason = self.reason or "an input is changed"
        elif owner.const is not None and owner.node is None:
            self.reason = self.reason or "a tensor from outside of the run is changed"
        elif owner.const is not None:
            aliases = [v for node in self.graph.nodes for v in node.inputs() if v.owner is owner]
            if constant and aliases:
                self.reason = self.reason or "a constant is changed after it was read"
            elif not constant:
                if any(v is not old for v in aliases):
                    self.reason = self.reason or "memory is changed that was read otherwise"
                with _disable_current_modes():  # those who read it before read these numbers
                    copy = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
                    old.const = copy.copy_(x)
                old.root, old.offset = None, 0
                self.stale[id(owner)] = owner, str(func)
        return old

    def _read(self, x: Tensor) -> Value:
        """The value of a tensor that is about to be read."""
        if type(x) not in (Tensor, nn.Parameter):
            self.reason = self.reason or f"a tensor is a {type(x).__name__}"
        value = self._value(x)
        if id(value.owner) in self.stale:
            what = self.stale[id(value.owner)][1]
            self.reason = self.reason or f"memory changed by {what} is read otherwise"
        return value

    def _told(self, x: Tensor, why: str) -> None:
        """A function was called that no operator shows."""
        with torch._C.DisableTorchFunction():
            constant = self._value(x).const is not None
        if not constant or why not in MAY_READ:
            self.reason = self.reason or why

    def _memory_of(self, x: Tensor) -> None:
        if x.layout == torch.strided:
            self.memory.add(x.untyped_storage().data_ptr())

    def _value(self, x: Tensor) -> Value:
        found = self.known.get(x)
        if found is None:
            found = self._new(x)
            found.const = x
            self.outside.append(x)
            if x.layout == torch.strided and x.untyped_storage().data_ptr() in self.memory:
                self.reason = self.reason or "a tensor was made that no operator made"
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
