"""What a recorded run is made of: values, and the nodes that make them.

A value knows its memory: shape, strides and offset in the storage of its root, the value that owns
that storage. Most models move tokens and pixels through many views of the same memory; `rows_of`
reads any of them as a matrix of rows (tokens, pixels) and channels, so that rules need not know
which views there were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(eq=False, repr=False)
class Value:
    """A tensor of the run."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    start: int = 0
    """Where its owner began in its storage; `offset` counts from there."""
    node: Node | None = None
    """Who makes it; None for inputs and constants."""
    root: Value | None = None
    """Whose memory it is; None where it is its own."""
    taped: tuple[int, ...] | None = None
    """The strides it had when it was recorded, where the program lays it out otherwise."""
    const: Tensor | None = None
    """Its numbers, where they do not depend on the inputs."""
    users: list[Node] = field(default_factory=list)
    looks: list[Value] = field(default_factory=list)
    """Views of its memory that no operator makes: rules asked for them."""

    @property
    def owner(self) -> Value:
        """The value whose memory this is."""
        return self if self.root is None else self.root.owner

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        return torch.Size(self.shape).numel()


def _values_in(tree: Iterable[Any]) -> Iterator[Value]:
    """The values in arguments, which may stand in lists."""
    for part in tree:
        if isinstance(part, Value):
            yield part
        elif isinstance(part, (list, tuple)):
            yield from _values_in(part)
        elif isinstance(part, dict):
            yield from _values_in(part.values())


@dataclass(eq=False, repr=False)
class Node:
    """A step of the run: an operator of torch ("aten"), or one of ours."""

    kind: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: list[Value]

    def inputs(self) -> Iterator[Value]:
        """The values it reads, each as often as it reads it."""
        yield from _values_in(self.args)
        if self.kwargs:
            yield from _values_in(self.kwargs.values())

    @property
    def out(self) -> Value:
        """Its only output."""
        return self.outs[0]


@dataclass(frozen=True)
class Rows:
    """A value as a matrix in the memory of its owner: rows `pitch` apart, channels side by side.

    order: for each axis of the value that is neither the channels nor of size 1, its size and the
    rows from one index to the next: two values of the same order hold the same place in the same
    row.
    """

    owner: Value
    offset: int
    rows: int
    channels: int
    pitch: int
    order: tuple[tuple[int, int, int], ...]

    @property
    def whole(self) -> bool:
        """Whether it is all of its owner's memory, without gaps."""
        return (
            self.offset == 0
            and self.pitch == self.channels
            and (self.rows * self.channels == self.owner.numel)
        )


def channel_axis(value: Value, pictures: bool = False) -> int:
    """Where the channels of a value are: axis 1 of pictures, else the last one."""
    last = len(value.shape) - 1
    if len(value.shape) != 4:
        return last
    if value.shape[1] > 1:
        return 1 if value.stride[1] == 1 else last
    return 1 if pictures else last  # one channel: memory does not tell


def rows_of(value: Value, axis: int | None = None) -> Rows | None:
    """The value as rows of channels; None where its memory does not run that way.

    axis: where the channels are; `channel_axis` if not given.
    """
    shape, stride = value.shape, value.stride
    if not shape or value.numel == 0:
        return None
    if value.root is not None and value.owner.taped is not None and value.taped is None:
        return None  # its strides are those of the old layout
    axis = channel_axis(value) if axis is None else axis
    channels = shape[axis]
    if channels > 1 and stride[axis] != 1:
        return None
    axes = [(stride[i], shape[i], i) for i in range(len(shape)) if i != axis and shape[i] > 1]
    axes.sort()
    pitch = axes[0][0] if axes else channels
    if pitch < channels:
        return None
    step, order = pitch, []
    for distance, size, number in axes:
        if distance != step:
            return None
        order.append((number, size, distance // pitch))
        step *= size
    rows = value.numel // channels
    return Rows(value.owner, value.offset, rows, channels, pitch, tuple(sorted(order)))


def as_rows(rows: Rows, value: Value) -> Value:
    """A value looked at as its rows (R, C)."""
    shape, stride = (rows.rows, rows.channels), (rows.pitch, 1)
    if value.const is not None:
        flat = torch.as_strided(value.const, shape, stride, value.const.storage_offset())
        return Value(shape, stride, 0, value.dtype, const=flat)
    owner = rows.owner
    return look_at(owner, shape, stride, rows.offset, value.dtype)


def look_at(
    owner: Value, shape: tuple[int, ...], stride: tuple[int, ...], offset: int, dtype: torch.dtype
) -> Value:
    """A view of an owner's memory as it is laid out now, that a rule asks for."""
    taped = None if owner.taped is None else stride
    return Value(shape, stride, offset, dtype, start=owner.start, root=owner, taped=taped)


@dataclass
class Graph:
    """A run: nodes in order, what goes in and what comes out."""

    inputs: list[Value]
    nodes: list[Node] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    """The flat outputs: values, or plain things as they were."""
    notes: dict[str, int] = field(default_factory=dict)
    """What rules did and refused, and how often."""

    def note(self, what: str) -> None:
        """Count something a rule did or refused."""
        self.notes[what] = self.notes.get(what, 0) + 1

    def link(self) -> None:
        """Find the users of all values anew."""
        for value in self.values():
            value.users, value.owner.looks = [], []
        for node in self.nodes:
            self.relink(node)

    def relink(self, node: Node) -> None:
        """Note a node with the values that it reads."""
        for value in node.inputs():
            if value.node is None and value.root is not None and not value.users:
                value.owner.looks.append(value)
            value.users.append(node)

    def unlink(self, node: Node) -> None:
        """Strike a node off the values that it reads; its arguments may change then."""
        for value in node.inputs():
            value.users = [user for user in value.users if user is not node]
            if value.node is None and value.root is not None and not value.users:
                value.owner.looks = [look for look in value.owner.looks if look is not value]

    def fuse(self, node: Node, user: Node, made: Node) -> None:
        """Put `made` in the place of `user` and of `node`, which it read."""
        self.nodes[self.nodes.index(user)] = made
        self.nodes.remove(node)
        self.unlink(node)
        self.unlink(user)
        self.relink(made)

    def values(self) -> Iterator[Value]:
        """All values, inputs and constants too, some more than once."""
        yield from self.inputs
        for node in self.nodes:
            yield from node.inputs()
            yield from node.outs

    def is_output(self, value: Value) -> bool:
        """Whether a value or a view of its memory leaves the run."""
        owner = value.owner
        return any(isinstance(out, Value) and out.owner is owner for out in self.outputs)

    def prune(self) -> None:
        """Drop nodes whose outputs nobody reads."""
        leaving = [out for out in self.outputs if isinstance(out, Value)]
        needed = {id(value) for out in leaving for value in (out, out.owner)}
        kept = []
        for node in reversed(self.nodes):
            if any(id(out) in needed for out in node.outs):
                kept.append(node)
                for value in node.inputs():
                    needed |= {id(value), id(value.owner)}
        self.nodes = kept[::-1]
        self.link()
