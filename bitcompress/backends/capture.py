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
from bitcompress.graph.sizes import repeated
from bitcompress.graph.timed import clock_of

STEPS = (1, 2, 4, 8, 16, 32, 64)
"""Multiples of what picture sizes are tried, where the model does not tell its windows."""
TRACES = 3
"""So often a size that runs may fail to be written down before fixed ones are taken."""
WINDOWS = ("window", "window_size", "split", "split_size", "windows", "multiple")
"""Attributes by which models tell the sizes of their windows, or of what sizes are multiples."""


SIZES = {0: "the sizes of the example", 1: "any size"}
ONE_BATCH = "the model's own code fixes the number of samples once it has seen one"


@dataclass(frozen=True)
class Sizes:
    """Which sizes of the inputs are free.

    step: pictures have sides that are multiples of it; 0 where their size is fixed.
    """

    step: int
    reason: str = ""
    """Why they are no freer."""
    batch: bool = True
    """Whether any number of samples is taken."""


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

    A size is run before it is written down, which takes a moment where the other takes many. The
    caller takes the first that passes its checks.
    Raises: CaptureError where not even fixed sizes can be written down, with what torch says.
    """
    named, reason, traces = named_inputs(example), "", 0
    window = windows_of(model)
    for step in (*(STEPS if window == 1 else (1, window)), 0):
        if step and traces >= TRACES:
            continue
        for batch in (True, False):
            progress(f"writing the model down for {SIZES.get(step, f'multiples of {step}')}")
            inputs = {name: _sized(value, step, batch) for name, value in named.items()}
            sizes = Sizes(step, reason, batch)
            try:
                run_alone(model, inputs)
                traces += 1
                program = _program(_Bare(model, tuple(inputs)).eval(), inputs, sizes)
            except Exception as error:
                reason = reason or _said(error)
                if step == 0 and not batch:
                    raise CaptureError(
                        f"{_where(error, model)} cannot be written down: {_said(error)}"
                    ) from error
                continue
            stuck = _fixed(program, inputs, sizes)
            if not stuck:
                yield Captured(program, inputs, sizes, _output_names(program))
            reason = reason or stuck
            if stuck != ONE_BATCH:
                break


def run_alone(model: Rewritten, inputs: Mapping[str, Tensor]) -> None:
    """Run the model for nothing but what it raises."""
    with torch.no_grad(), quiet():
        run_once(model, inputs)


def _where(error: Exception, model: Rewritten) -> str:
    """The innermost module of the model whose forward was running when a failure came up."""
    names = {id(module): name for name, module in model.named_modules()}
    found, step = "", error.__traceback__
    while step is not None:
        found = names.get(id(step.tb_frame.f_locals.get("self")), "") or found
        step = step.tb_next
    name = found.removeprefix("net").removeprefix(".")
    return f"{name} of the model" if name else "the model"


def _said(error: Exception) -> str:
    """What torch says of a failure, without its advice."""
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        return (
            "its forward decides by the numbers of a tensor (an if, item or int of one), where a "
            "file has one way for all: write it with torch.where, or export the part behind it"
        )
    text = " ".join(str(error).split()).split(" For more information, run with")[0]
    return text[:300] or type(error).__name__


def _sized(value: Tensor, step: int, batch: bool) -> Tensor:
    """The example with a batch and sides that stand for any: two of all, sides a multiple of step.

    Sizes of 1 would be taken for fixed ones, and equal sides for one size.
    """
    if value.dim() == 0 or not (step or batch):
        return value
    shape = [max(2, len(value)) if batch else len(value), *value.shape[1:]]
    if value.dim() == 4 and step:
        shape[2:] = [
            math.ceil(32 / step) * step,
            (math.ceil(32 / step) + 1) * step + (step == 1) * 8,
        ]
    return repeated(value, shape)


def _program(bare: _Bare, inputs: Mapping[str, Tensor], sizes: Sizes) -> Any:
    dim = torch.export.Dim
    free: list[dict[int, Any]] = []
    names = {2: "height", 3: "width"}
    for value in inputs.values():
        axes: dict[int, Any] = {}
        if sizes.batch and value.dim():
            axes[0] = dim.AUTO
        if sizes.step and value.dim() == 4:
            axes |= {
                axis: dim.AUTO if sizes.step == 1 else sizes.step * dim(name, min=1)
                for axis, name in names.items()
            }
        free.append(axes)
    with torch.no_grad(), quiet():
        program = torch.export.export(
            bare, tuple(inputs.values()), strict=False,
            dynamic_shapes=(tuple(free),),
        )  # fmt: skip
        if not any(map(_changes, program.graph.nodes)):
            return program
        # What changes a tensor in place becomes what gives another one: a file knows no places.
        made = program.run_decompositions({})
        made._guards_code = getattr(program, "_guards_code", None)
        return made


def _changes(node: Any) -> bool:
    """Whether a node of a graph writes into what it is given."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def _fixed(program: Any, inputs: Mapping[str, Tensor], sizes: Sizes) -> str:
    """Why the sizes of a program are not as free as they should be; empty where they are."""
    wanted = [node for node in program.graph.nodes if node.op == "placeholder"][-len(inputs) :]
    shapes = [
        node.meta["val"].shape if isinstance(node.meta["val"], Tensor) else () for node in wanted
    ]
    if sizes.step and any(_is_number(size) for s in shapes if len(s) == 4 for size in s[2:]):
        return "the model's own code fixes the size of a picture once it has seen one"
    if sizes.batch and any(_is_number(shape[0]) for shape in shapes if shape):
        return ONE_BATCH
    return ""


def _is_number(size: Any) -> bool:
    """Whether a size is no longer free; one that was found to be equal to a number is none."""
    return isinstance(size, int) or size.node.maybe_as_int() is not None
