"""The programs of a model: one for each size of inputs that came twice, made, checked and kept.

The first run of a size is the model's own; the second is recorded and must give, replayed, the same
bits. The third, and the first on other numbers, run both ways and must agree; from then on the
program runs alone. A model that changed, has hooks of others, computes gradients or does what no
list can repeat goes on running as it is, with the reason.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from bitcompress import native
from bitcompress.program.execute import Program
from bitcompress.program.record import NotReplayable, Record
from bitcompress.program.rules import RULES
from bitcompress.program.state import State, Versions, global_hooks

KEPT = 4
"""Sizes whose programs are kept; the longest unused leaves."""
PLAIN = (int, float, bool, str, type(None))
ONCE = "seen once"
LONGEST_WAIT = 1024
"""How many runs a model that keeps changing is left alone at most."""


@dataclass
class Made:
    """A program, and what it has to prove yet."""

    program: Program
    layout: TreeSpec
    outside: Versions
    given: list[Tensor] | None
    """The inputs on which it was recorded, until it has agreed with the model on others."""
    again: bool = True
    """Whether the next run is compared, whatever its inputs."""


class Programs:
    """Programs of one model by what it is given."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._empty()

    def _empty(self) -> None:
        self.found: OrderedDict[Any, Made | str] = OrderedDict()
        self.state: State | None = None
        self.lock = threading.RLock()
        self.reasons: dict[str, int] = {}
        """Why runs were left to the model itself, and how often."""
        self.wait = self.left = 0
        """How many runs are not looked at after the model has changed, and how many of them are
        still to come."""

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._empty()

    def run(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The model's output, from a program where there is one."""
        flat, shape = tree_flatten((args, kwargs))
        reason = self._objection(flat) or self._change() or self._objection_of_state(flat)
        if reason:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
            return forward(*args, **kwargs)
        inputs = [x for x in flat if isinstance(x, Tensor)] + self._shown(args, kwargs)
        key = (shape, tuple(map(_form, (*flat, *inputs))), _twice(flat), *_surroundings())
        found = self._lookup(key)
        if isinstance(found, Made):
            return self._run(key, found, inputs, forward, args, kwargs)
        if found == ONCE:
            return self._make(key, forward, flat, inputs, args, kwargs)
        if found is None:
            self._keep(key, ONCE)
        return forward(*args, **kwargs)

    def notes(self) -> dict[str, int]:
        """What rules did in the last program made, and what they refused."""
        made = self._last()
        return dict(made.program.notes) if made else {}

    def steps(self) -> list[str]:
        """What the last program made does, step by step."""
        made = self._last()
        return list(made.program.labels) if made else []

    def refusals(self) -> list[str]:
        """Why sizes that came twice have no program."""
        return sorted({f for f in self.found.values() if isinstance(f, str) and f != ONCE})

    def _last(self) -> Made | None:
        made = [found for found in self.found.values() if isinstance(found, Made)]
        return made[-1] if made else None

    def _lookup(self, key: Any) -> Made | str | None:
        with self.lock:
            found = self.found.get(key)
            if isinstance(found, Made) and not found.outside.hold():
                del self.found[key]
                return None
            if found is not None:
                self.found.move_to_end(key)
            return found

    def _keep(self, key: Any, what: Made | str) -> None:
        with self.lock:
            self.found[key] = what
            while len(self.found) > KEPT:
                self.found.popitem(last=False)

    def _shown(self, args: Any, kwargs: Any) -> list[Tensor]:
        """What the clocks of the model show in this run: inputs that no argument is."""
        state = self.state
        assert state is not None
        for reader in state.readers:
            reader(self.model, args, kwargs)
        return [clock.now for clock in state.clocks if clock.now is not None]

    def _run(
        self, key: Any, made: Made, inputs: list[Tensor], forward: Callable[..., Any], args: Any,
        kwargs: Any,
    ) -> Any:  # fmt: skip
        """The output by a program; also by the model as long as the program is to be proved."""
        try:
            out = made.program.run(inputs)
        except Exception as error:  # what the model makes of it is for the model to say
            self._keep(key, f"it failed: {type(error).__name__}: {error}")
            out = None
        if out is None:
            return forward(*args, **kwargs)
        others = made.given is not None and not all(map(_same, made.given, inputs))
        if not (made.again or others):
            return tree_unflatten(out, made.layout)
        own = forward(*args, **kwargs)
        given, layout = tree_flatten(own)
        if layout != made.layout or not all(map(_same, given, out)):
            self._keep(key, "another run gave other bits than the model")
        made.again, self.wait = False, 0
        if others:
            made.given = None
        return own

    def _make(
        self, key: Any, forward: Callable[..., Any], flat: list[Any], inputs: list[Tensor],
        args: Any, kwargs: Any,
    ) -> Any:  # fmt: skip
        """Run the model, record it, and keep a program if that gives the same bits."""
        record = Record(inputs)
        with record:
            out = forward(*args, **kwargs)
        try:
            self._keep(key, self._compiled(record, inputs, flat, (args, kwargs), out))
        except NotReplayable as reason:
            self._keep(key, str(reason))
        except Exception as error:  # a model must not fail for being made faster
            self._keep(key, f"no program: {type(error).__name__}: {error}")
        return out

    def _compiled(
        self, record: Record, inputs: list[Tensor], flat: list[Any], call: Any, out: Any
    ) -> Made:
        """The program of a recorded run. Raises: NotReplayable."""
        given, layout = tree_flatten(out)
        if not all(isinstance(x, (Tensor, *PLAIN)) for x in given):
            raise NotReplayable("an output is neither a tensor nor a plain value")
        changed = tree_flatten(call)[0]
        if len(changed) != len(flat) or any(a is not b for a, b in zip(changed, flat, strict=True)):
            raise NotReplayable("an argument is changed")
        if isinstance(out, dict | list) and any(out is x for x in (*call[0], *call[1].values())):
            raise NotReplayable("an argument is the output")
        graph = record.finish(out)
        assert self.state is not None
        change = self.state.change()
        if change:
            raise NotReplayable(f"the run changes {change}")
        places: dict[Any, Tensor] = {}
        for rule in RULES.values():
            rule(graph, places)
        program = Program(graph)
        again = program.run(inputs)
        if again is None or not all(map(_same, given, again)):
            raise NotReplayable("replayed it gave other bits")
        outside = Versions([t for t in record.outside if id(t) not in self.state.owned])
        if not outside.counted:
            raise NotReplayable("a tensor of inference mode is read: nobody counts its changes")
        return Made(program, layout, outside, [x.detach().clone() for x in inputs])

    def _objection(self, flat: list[Any]) -> str:
        """Why this run is none for a program; empty where it may be."""
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return "the model is being traced"
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return "the run is transformed (vmap, grad)"
        if native.kernels() is None:
            return native.why_not()
        if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
            return "somebody follows the operators"
        for x in flat:
            if isinstance(x, Tensor):
                if type(x) is not Tensor or x.device.type != "cpu" or x.layout != torch.strided:
                    return "an input is no plain tensor on the CPU"
                if x.requires_grad and torch.is_grad_enabled():
                    return "gradients are computed"
            elif not isinstance(x, PLAIN):
                return f"an input is a {type(x).__name__}"
        if torch.is_autocast_enabled("cpu"):
            return "autocast is on"
        return "modules have hooks" if global_hooks() else ""

    def _change(self) -> str:
        """Forget all programs where the model has changed; the reason while it keeps changing."""
        if self.left:
            self.left -= 1
            return "the model has changed"
        with self.lock:
            change = self.state.change() if self.state is not None else "all"
            if not change:
                return ""
            if self.found:  # runs change the model: looking at it each time is not free
                self.wait = min(2 * self.wait + 1, LONGEST_WAIT)
                self.left = self.wait - 1
            self.found.clear()
            self.state = State(self.model)
            return ""

    def _objection_of_state(self, flat: list[Any]) -> str:
        """Why the model as it is has no programs."""
        state = self.state
        assert state is not None
        if state.objection:
            return state.objection
        if torch.is_grad_enabled() and state.learns():
            return "gradients are computed"
        if any(isinstance(x, Tensor) and id(x) in state.owned for x in flat):
            return "an input is a tensor of the model"
        return ""


def _surroundings() -> tuple[Any, ...]:
    """What a run depends on beside the model and its inputs."""
    kernels = native.kernels()
    assert kernels is not None
    return (
        kernels.isa(), torch.get_num_threads(), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.get_default_dtype(),
    )  # fmt: skip


def _form(x: Any) -> Any:
    """What of an input a program depends on; zeros of both signs differ."""
    if isinstance(x, Tensor):
        return x.shape, x.stride(), x.dtype
    return type(x), repr(x) if isinstance(x, float) else x


def _twice(flat: list[Any]) -> tuple[int, ...]:
    """Which tensors are given more than once: for each the place where it stands first."""
    if len(flat) < 2:
        return ()
    first: dict[int, int] = {}
    return tuple(first.setdefault(id(x), i) for i, x in enumerate(flat) if isinstance(x, Tensor))


def _same(one: Any, two: Any) -> bool:
    """Whether two outputs are the same, bit for bit and in the same layout."""
    if not isinstance(one, Tensor):
        return type(one) is type(two) and repr(one) == repr(two)
    if not isinstance(two, Tensor) or type(one) is not type(two) or one.layout != torch.strided:
        return False
    if (one.dtype, one.shape, one.stride()) != (two.dtype, two.shape, two.stride()):
        return False
    if one.is_complex() or one.is_quantized:
        return bool(torch.equal(one, two))
    bits = (x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (one, two))
    return bool(torch.equal(*bits))
