"""A graph made ready to run: every node a closure on a table of tensors, memory laid out once.

Values that native steps write lie in one block; what reads them is bound to their addresses when
the program is made, so that a step costs one call. Operators of torch run as they were recorded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from bitcompress import native
from bitcompress.packed.attention import AttendSpec, Term, attend
from bitcompress.packed.binary import define_leaky
from bitcompress.packed.gelu import gelu
from bitcompress.packed.group_norm import group_norm
from bitcompress.packed.norm import layer_norm
from bitcompress.packed.sigmoid import sigmoid, silu
from bitcompress.program import bind
from bitcompress.program.ir import Graph, Node, Value
from bitcompress.program.moves import is_view
from bitcompress.program.place import arena
from bitcompress.program.rules.layout import ALIKE, FOLLOW

Table = list[Any]
Step = Callable[[Table], None]


class Program:
    """A run of a model for inputs of one size; one thread at a time.

    `run` gives the flat outputs; None where another thread is running it.
    """

    def __init__(self, graph: Graph) -> None:
        self.notes = dict(graph.notes)
        self.busy = threading.Lock()
        self.table: Table = []
        self.slots: dict[int, int] = {}
        self.fixed = arena(graph)
        self.inputs = [self._slot(value) for value in graph.inputs]
        self.steps: list[Step] = []
        self.touched: list[set[int]] = []
        """The places of the table that each step reads or writes."""
        self.labels: list[str] = []
        """What each step is, for profiles."""
        for node in graph.nodes:
            self._add(node)
            self.labels += [label(node)] * (len(self.steps) - len(self.labels))
        self.results = [self._result(out) for out in graph.outputs]
        self.done = self._done()

    def run(self, inputs: Sequence[Tensor]) -> list[Any] | None:
        """The flat outputs for inputs of the recorded sizes."""
        if not self.busy.acquire(blocking=False):
            return None
        try:
            table = self.table.copy()
            for slot, x in zip(self.inputs, inputs, strict=True):
                table[slot] = x
            for step, done in zip(self.steps, self.done, strict=True):
                step(table)
                for slot in done:
                    table[slot] = None
            return [result if slot < 0 else table[slot] for slot, result in self.results]
        finally:
            self.busy.release()

    def _done(self) -> list[list[int]]:
        """For each step the places that nobody needs any more: operators' tensors are let go."""
        kept = {slot for slot, _ in self.results} | {
            slot for slot, held in enumerate(self.table) if held is not None
        }
        done: list[list[int]] = []
        for touched in reversed(self.touched):
            done.append(sorted(touched - kept))
            kept |= touched
        return done[::-1]

    def _append(self, step: Step, touched: Iterable[int], name: str = "") -> None:
        self.steps.append(step)
        self.touched.append(set(touched))
        if name:
            self.labels.append(name)

    def _slot(self, value: Value) -> int:
        """Where a value stands in the table."""
        key = id(value)
        if key not in self.slots:
            self.slots[key] = len(self.table)
            held = self.static(value)
            self.table.append(held)
            if held is None and value.root is not None and value.node is None:
                self._look(value)
        return self.slots[key]

    def static(self, value: Value) -> Tensor | None:
        """The tensor of a value whose address is known before the run."""
        if value.const is not None:
            return value.const.detach()
        if id(value) in self.fixed:
            return self.fixed[id(value)]
        owner = value.owner
        moved = owner.taped is not None and value.taped is None  # a view of the old layout
        if value.root is not None and id(owner) in self.fixed and not moved:
            base = self.fixed[id(owner)]
            return torch.as_strided(
                base, value.shape, value.stride, base.storage_offset() + value.offset
            )
        return None

    def _look(self, value: Value) -> None:
        """A view that no operator makes."""
        base, to = self._slot(value.owner), self.slots[id(value)]
        shape, stride, offset = value.shape, value.stride, value.offset

        def step(table: Table) -> None:
            x = table[base]
            table[to] = torch.as_strided(x, shape, stride, x.storage_offset() + offset)

        self._append(step, (base, to), "look")

    def _add(self, node: Node) -> None:
        if node.kind == "aten":
            if is_view(node) and all(self.static(out) is not None for out in node.outs):
                return
            self._operator(node)
        elif node.kind in PLAIN:
            self._call(node)
        else:
            read = [self._reader(value) for value in node.args]
            outs = [self._reader(out) for out in node.outs]
            self._append(bind.step(node, read, outs), [slot for _, slot in (*read, *outs)])

    def _reader(self, value: Value) -> tuple[Tensor | None, int]:
        """For a native step: the tensor of a value if it is known now, and its place."""
        slot = self._slot(value)
        return self.static(value), slot

    def _operator(self, node: Node) -> None:
        """An operator of torch, on the layouts in which it was recorded."""
        func = node.target
        args = tree_map_only(
            Value, lambda v: _Ref(self._as_taped(v, node)), (node.args, node.kwargs)
        )
        flat, shape = tree_flatten(args)
        refs = [(i, leaf.slot) for i, leaf in enumerate(flat) if isinstance(leaf, _Ref)]
        outs = [self._slot(out) for out in node.outs]
        follows = node.target in FOLLOW and len(node.outs) == 1
        shape_, stride = (node.out.shape, node.out.stride) if follows else ((), ())
        plain = not node.kwargs and not any(isinstance(x, list | tuple | dict) for x in node.args)

        def step(table: Table) -> None:
            now = flat.copy()
            for i, slot in refs:
                now[i] = table[slot]
            if plain:
                made = func(*now)
            else:
                positional, named = tree_unflatten(now, shape)
                made = func(*positional, **named)
            if len(outs) == 1 and isinstance(made, Tensor):
                if follows and made.stride() != stride:
                    made = torch.empty_strided(shape_, stride, dtype=made.dtype).copy_(made)
                table[outs[0]] = made
                return
            tensors = [x for x in tree_flatten(made)[0] if isinstance(x, Tensor)]
            for slot, x in zip(outs, tensors, strict=True):
                table[slot] = x

        self._append(step, (*(slot for _, slot in refs), *outs))

    def _call(self, node: Node) -> None:
        """One of our own operators as it is, on what it was given when it was recorded."""
        how = PLAIN[node.kind](node.target)
        slots = [self._as_taped(value, node) for value in node.args]
        to = self._slot(node.out)

        def step(table: Table) -> None:
            table[to] = how(*[table[slot] for slot in slots])

        self._append(step, (*slots, to))

    def _as_taped(self, value: Value, node: Node) -> int:
        """The place of a value in the layout it had when it was recorded."""
        slot = self._slot(value)
        looks = is_view(node) and node.outs[0].taped is not None
        if value.taped is None or node.target in FOLLOW or node.kind in ALIKE or looks:
            return slot
        return self._turned(value, slot)

    def _turned(self, value: Value, slot: int) -> int:
        key = -id(value)
        if key not in self.slots:
            self.slots[key] = len(self.table)
            self.table.append(None)
            to, shape, stride = self.slots[key], value.shape, value.taped
            assert stride is not None
            threads = native.threads()

            def step(table: Table) -> None:
                table[to] = torch.empty_strided(shape, stride, dtype=table[slot].dtype)
                bind.copier(table[slot], table[to])(threads)

            self._append(step, (slot, to), "turn")
        return self.slots[key]

    def _result(self, out: Any) -> tuple[int, Any]:
        if not isinstance(out, Value):
            return -1, out
        slot = self._slot(out)
        return (slot if out.taped is None else self._turned(out, slot)), None


class _Ref:
    """A place of the table among the arguments of an operator."""

    def __init__(self, slot: int) -> None:
        self.slot = slot


def label(node: Node) -> str:
    """A node in short."""
    if node.kind == "aten":
        return str(node.target)
    if node.kind != "layer":
        return node.kind
    spec = node.target
    parts = [step.kind for step in spec.head] + ["codes" if spec.codes_in else ""]
    m = spec.module
    parts.append("" if m is None else "x".join(map(str, m.weight_shape)))
    parts += [step.kind for step in spec.tail]
    parts += ["codes" if spec.codes_out else "", "shuffle" if spec.shuffle else ""]
    return "layer " + " ".join(filter(None, parts))


def _attend(spec: AttendSpec) -> Callable[..., Tensor]:
    def run(q: Tensor, k: Tensor, v: Tensor, *tensors: Tensor) -> Tensor:
        terms = [
            Term(tensor, multiply, view)
            for tensor, multiply, view in zip(tensors, spec.multiplies, spec.views, strict=True)
        ]
        return attend(q, k, v, terms, spec.qk, spec.av)

    return run


def _norm(target: tuple[bool, bool, float]) -> Callable[..., Tensor]:
    has_gain, has_shift, eps = target

    def run(x: Tensor, *affine: Tensor) -> Tensor:
        gain = affine[0] if has_gain else None
        return layer_norm(x, gain, affine[-1] if has_shift else None, eps)

    return run


def _group_norm(target: tuple[int, bool, bool, float]) -> Callable[..., Tensor]:
    groups, has_gain, has_shift, eps = target

    def run(x: Tensor, *affine: Tensor) -> Tensor:
        gain = affine[0] if has_gain else None
        return group_norm(x, groups, gain, affine[-1] if has_shift else None, eps)

    return run


PLAIN: dict[str, Callable[[Any], Callable[..., Tensor]]] = {
    "attend": _attend,
    "call": lambda how: how,
    "norm": _norm,
    "group_norm": _group_norm,
    "leaky": lambda _: define_leaky,
    "gelu": lambda _: gelu,
    "gelu_tanh": lambda _: partial(gelu, approximate="tanh"),
    "sigmoid": lambda _: sigmoid,
    "silu": lambda _: silu,
}
"""Kinds that run through their Python entry, by what makes a function of their target."""
