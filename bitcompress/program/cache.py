"""The programs of a model: one for each size of inputs that came twice, made, checked and kept.

The first run of a size is the model's own; the second is recorded and must give, replayed, the same
bits; from then on the program runs. A model that changed, has hooks of others, computes gradients
or does what no list can repeat goes on running as it is, with the reason.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from bitcompress import native
from bitcompress.program.execute import Program
from bitcompress.program.record import NotReplayable, Record
from bitcompress.program.rules import RULES

KEPT = 4
"""Sizes whose programs are kept; the longest unused leaves."""
PLAIN = (int, float, bool, str, type(None))
ONCE = "seen once"


class Programs:
    """Programs of one model by what it is given."""

    def __init__(self, model: nn.Module, hooks: Callable[[nn.Module], int]) -> None:
        self.model, self.hooks = model, hooks
        self._empty()

    def _empty(self) -> None:
        self.found: OrderedDict[Any, tuple[Program, TreeSpec] | str] = OrderedDict()
        self.places: dict[Any, Tensor] = {}
        self.state: tuple[Any, ...] = ()
        self.lock = threading.RLock()
        self.reasons: dict[str, int] = {}
        """Why runs were left to the model itself, and how often."""

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "hooks": self.hooks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._empty()

    def run(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The model's output, from a program where there is one."""
        flat, shape = tree_flatten((args, kwargs))
        reason = self._objection(flat)
        if reason:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
            return forward(*args, **kwargs)
        key = (shape, tuple(map(_form, flat)), torch.get_num_threads())
        found = self._lookup(key)
        if isinstance(found, tuple):
            program, layout = found
            out = program.run([x for x in flat if isinstance(x, Tensor)])
            if out is not None:
                return tree_unflatten(out, layout)
        if found == ONCE:
            return self._make(key, forward, flat, args, kwargs)
        if found is None:
            self._keep(key, ONCE)
        return forward(*args, **kwargs)

    def notes(self) -> dict[str, int]:
        """What rules did in the last program made, and what they refused."""
        made = [found for found in self.found.values() if isinstance(found, tuple)]
        return dict(made[-1][0].notes) if made else {}

    def refusals(self) -> list[str]:
        """Why sizes that came twice have no program."""
        return sorted({f for f in self.found.values() if isinstance(f, str) and f != ONCE})

    def _lookup(self, key: Any) -> tuple[Program, TreeSpec] | str | None:
        with self.lock:
            state = self._state()
            if state != self.state:
                self.found.clear()
                self.state = state
            found = self.found.get(key)
            if found is not None:
                self.found.move_to_end(key)
            return found

    def _keep(self, key: Any, what: tuple[Program, TreeSpec] | str) -> None:
        with self.lock:
            self.found[key] = what
            while len(self.found) > KEPT:
                self.found.popitem(last=False)

    def _make(
        self, key: Any, forward: Callable[..., Any], flat: list[Any], args: Any, kwargs: Any
    ) -> Any:
        """Run the model, record it, and keep a program if that gives the same bits."""
        tensors = [x for x in flat if isinstance(x, Tensor)]
        record = Record(tensors, lambda: "")
        with record:
            out = forward(*args, **kwargs)
        given, layout = tree_flatten(out)
        if not all(isinstance(x, (Tensor, *PLAIN)) for x in given):
            self._keep(key, "an output is neither a tensor nor a plain value")
            return out
        try:
            graph = record.finish(out)
            for rule in RULES.values():
                rule(graph, self.places)
            program = Program(graph)
            again = program.run(tensors)
        except NotReplayable as reason:
            self._keep(key, str(reason))
            return out
        except Exception as error:  # a model must not fail for being made faster
            self._keep(key, f"no program: {type(error).__name__}: {error}")
            return out
        same = again is not None and all(map(_same, given, again))
        self._keep(key, (program, layout) if same else "replayed it gave other bits")
        return out

    def _objection(self, flat: list[Any]) -> str:
        """Why this run is none for a program; empty where it may be."""
        if native.kernels() is None:
            return native.why_not()
        for x in flat:
            if isinstance(x, Tensor):
                if type(x) is not Tensor or x.device.type != "cpu" or x.layout != torch.strided:
                    return "an input is no plain tensor on the CPU"
                if x.requires_grad and torch.is_grad_enabled():
                    return "gradients are computed"
            elif not isinstance(x, PLAIN):
                return f"an input is a {type(x).__name__}"
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.model.parameters()):
            return "gradients are computed"
        if any(self.hooks(module) for module in self.model.modules()):
            return "modules have hooks"
        if torch.is_autocast_enabled("cpu"):
            return "autocast is on"
        if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
            return "somebody follows the operators"
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return "the model is being traced"
        return ""

    def _state(self) -> tuple[Any, ...]:
        """What a program depends on besides its inputs: tensors of the model, modes, hooks."""
        parts: list[Any] = [native.kernels().isa()]  # type: ignore[union-attr]
        for module in self.model.modules():
            parts += [id(module), module.training, self.hooks(module)]
            for table in (module._parameters, module._buffers):
                for t in table.values():
                    if t is not None:
                        parts += [id(t), _version(t)]
        return tuple(parts)


def _version(t: Tensor) -> int:
    return 0 if t.is_inference() else t._version


def _form(x: Any) -> Any:
    """What of an input a program depends on."""
    if isinstance(x, Tensor):
        return tuple(x.shape), tuple(x.stride()), x.dtype, x.storage_offset()
    return type(x), x


def _same(one: Any, two: Any) -> bool:
    """Whether two outputs are the same, bit for bit and in the same layout."""
    if not isinstance(one, Tensor):
        return type(one) is type(two) and bool(one == two)
    return (
        isinstance(two, Tensor)
        and one.dtype == two.dtype
        and one.stride() == two.stride()
        and torch.equal(one.contiguous().view(torch.uint8), two.contiguous().view(torch.uint8))
    )
