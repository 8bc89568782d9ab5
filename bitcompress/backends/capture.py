"""A packed model as an exported program of opaque nodes, with as many free sizes as it allows.

Batch and picture sizes are left free where the model's own code allows it: any size, else any
multiple of the size of its windows, else the one size of the example. Which, and why not more, is
said in `Captured`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.backends.opaque import writing_down
from bitcompress.backends.quiet import quiet
from bitcompress.backends.rolls import Turn
from bitcompress.backends.windows import windowed
from bitcompress.errors import CaptureError
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.timed import clock_of

STEPS = (1, 8, 16)
"""Multiples of what picture sizes are tried, where the model does not tell its windows."""
WINDOWS = ("window", "window_size", "split", "split_size", "windows", "multiple")
"""Attributes by which models tell the sizes of their windows, or of what sizes are multiples."""


SIZES = {0: "the sizes of the example", 1: "any size"}


@dataclass(frozen=True)
class Sizes:
    """Which sizes of the inputs are free.

    step: pictures have sides that are multiples of it; 0 where every size is fixed.
    """

    step: int
    reason: str = ""
    """Why it is no smaller."""


@dataclass(frozen=True)
class Captured:
    """A model written down.

    inputs: the names and example tensors, in the order of the graph; outputs: names of a dict.
    """

    program: Any
    inputs: dict[str, Tensor]
    sizes: Sizes
    outputs: tuple[str, ...] = ()
    turned: Mapping[int, Turn] = field(default_factory=dict)
    """Of a program of windows (windows.py): which layers see their rows in other places."""

    def in_windows(self) -> Captured:
        """The same with its window attentions as one node each."""
        made = windowed(self.program)
        return replace(self, program=made.program, turned=made.turned)


class _Bare(nn.Module):
    """A packed model that is written down as it runs: its own forward, opaque nodes."""

    def __init__(self, model: Rewritten, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, *inputs: Tensor) -> Any:
        """What the packed model gives on these inputs, in the order of `names`."""
        with writing_down():
            return run_once(self.model, dict(zip(self.names, inputs, strict=True)))


def _output_names(program: Any) -> tuple[str, ...]:
    """The keys of a dict of tensors; () where outputs have no names of their own."""
    spec = program.call_spec.out_spec
    if spec.type is not dict or not all(part.is_leaf() for part in spec.children()):
        return ()
    keys = tuple(spec.context)
    return keys if all(isinstance(key, str) and key.isidentifier() for key in keys) else ()


def run_once(model: Rewritten, named: Mapping[str, Tensor]) -> Any:
    """The packed model's own forward on inputs by name, its blocks told the time of the run.

    The clock shows afterwards what it showed before: no trace of a run that is written down stays.
    """
    positional = [value for name, value in named.items() if name.startswith("input")]
    keywords = {name: value for name, value in named.items() if not name.startswith("input")}
    timed = clock_of(model)
    if timed is None:
        return model.run_net(*positional, **keywords)
    clock, source = timed
    before = getattr(clock, "now", None)
    try:
        clock.set(source.of(tuple(positional), keywords))
        return model.run_net(*positional, **keywords)
    finally:
        clock.now = before  # type: ignore[attr-defined]


def named_inputs(example: Any) -> dict[str, Tensor]:
    """Example inputs by name: `input`, `input1`, ... where they have none.

    Raises: CaptureError where one is no tensor.
    """
    if isinstance(example, Mapping):
        named = dict(example)
    elif isinstance(example, Sequence):
        named = {f"input{i or ''}": part for i, part in enumerate(example)}
    else:
        named = {"input": example}
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise CaptureError(
                f"the input {name} is a {type(value).__name__}: a file takes tensors alone"
            )
    return named


def windows_of(model: nn.Module) -> int:
    """The least common multiple of the windows that a model tells; 1 where it tells none."""
    found = {1}
    for module in model.modules():
        for name in WINDOWS:
            value = getattr(module, name, None)
            for size in value if isinstance(value, list | tuple) else (value,):
                if isinstance(size, int) and not isinstance(size, bool) and 1 < size <= 256:
                    found.add(size)
    return math.lcm(*found)


def captures(
    model: Rewritten, example: Any, progress: Callable[[str], None] = lambda stage: None
) -> Iterator[Captured]:
    """The model written down, from the freest sizes to fixed ones; failures are passed over.

    The caller takes the first that passes its checks.
    Raises: CaptureError where not even fixed sizes can be written down, with what torch says.
    """
    named, reason = named_inputs(example), ""
    window = windows_of(model)
    steps = (*(STEPS if window == 1 else (1, window)), 0)
    for step in steps:
        progress(f"writing the model down for {SIZES.get(step, f'multiples of {step}')}")
        try:
            inputs = {name: _sized(value, step) for name, value in named.items()}
            bare = _Bare(model, tuple(inputs)).eval()
            program = _program(bare, inputs, step)
            stuck = step and _fixed(program, inputs, step)
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            if step == 0:
                raise CaptureError(f"the model cannot be written down: {reason}") from error
            continue
        if stuck:
            reason = stuck
            continue
        yield Captured(program, inputs, Sizes(step, reason), _output_names(program))


def _sized(value: Tensor, step: int) -> Tensor:
    """The example with a batch and sides that stand for any: two of all, sides a multiple of step.

    Sizes of 1 would be taken for fixed ones, and equal sides for one size.
    """
    if step == 0:
        return value
    batch = [2, *value.shape[1:]]
    if value.dim() == 4:
        batch[2:] = [
            math.ceil(32 / step) * step,
            (math.ceil(32 / step) + 1) * step + (step == 1) * 8,
        ]
    made = value.new_empty(batch)
    repeats = [math.ceil(new / old) for new, old in zip(batch, value.shape, strict=True)]
    made.copy_(value.repeat(*repeats)[tuple(slice(0, size) for size in batch)])
    return made


def _program(bare: _Bare, inputs: Mapping[str, Tensor], step: int) -> Any:
    dim = torch.export.Dim
    free: list[dict[int, Any]] = []
    names = {2: "height", 3: "width"}
    for value in inputs.values():
        axes: dict[int, Any] = {}
        if step and value.dim():
            axes[0] = dim.AUTO
        if step and value.dim() == 4:
            axes |= {
                axis: dim.AUTO if step == 1 else step * dim(name, min=1)
                for axis, name in names.items()
            }
        free.append(axes)
    with torch.no_grad(), quiet():
        return torch.export.export(
            bare, tuple(inputs.values()), strict=False,
            dynamic_shapes=(tuple(free),),
        )  # fmt: skip


def _fixed(program: Any, inputs: Mapping[str, Tensor], step: int) -> str:
    """Why the sizes of a program are not as free as they should be; empty where they are."""
    wanted = [node for node in program.graph.nodes if node.op == "placeholder"][-len(inputs) :]
    for node, value in zip(wanted, inputs.values(), strict=True):
        if value.dim() != 4:
            continue
        shape = node.meta["val"].shape
        if any(isinstance(shape[axis], int) for axis in (2, 3)):
            return "the model's own code fixes the size of a picture once it has seen one"
    return ""
