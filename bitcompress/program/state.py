"""What a program depends on besides its inputs, and whether it is still as it was.

A program holds what the model was when it was made: tensors, layers, hooks, attributes that its
forward may read. A copy of all of these is compared, object by object, before each run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as all_modules

from bitcompress import native
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.scope import foreign_hooks
from bitcompress.layers.binary.clock import Clock, TimeReader

Container = dict[Any, Any] | list[Any]

TABLES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
"""The dicts of a module that say what it runs."""
OTHERS = frozenset(
    {
        "_non_persistent_buffers_set", "_backward_pre_hooks", "_backward_hooks",
        "_is_full_backward_hook", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
        "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", *TABLES,
    }
)  # fmt: skip
"""What every module has, beside which stand the attributes of its author."""
DEEPEST = 4
"""How far attributes are followed into dicts, lists and objects."""
_version = attrgetter("_version")


def first_change(containers: Sequence[Container], copies: Sequence[tuple[Any, ...]]) -> int:
    """The first container that holds other objects than its copy (`copy_of`); -1 for none.

    The meaning of the native function of that name.
    """
    for place, (now, then) in enumerate(zip(containers, copies, strict=True)):
        if tuple(map(id, copy_of(now))) != tuple(map(id, then)):
            return place
    return -1


def copy_of(container: Container) -> tuple[Any, ...]:
    """The items of a list, or the keys and values of a dict in turn."""
    if isinstance(container, list):
        return tuple(container)
    return tuple(part for pair in container.items() for part in pair)


class State:
    """A model as it was when this was made.

    objection: why no program can depend on it; empty where one can.
    """

    def __init__(self, model: nn.Module) -> None:
        self.names: list[str] = []
        self.containers: list[Container] = []
        held: dict[int, Tensor] = {}
        hooked = 0
        self.clocks: list[Clock] = []
        """What they show is an input of each run."""
        self.readers = _readers(model.net) if isinstance(model, Rewritten) else []
        """Hooks that set a clock from the arguments of the model: called before each run."""
        for name, module in model.named_modules():
            hooked += foreign_hooks(module) if module is not model else 0
            if isinstance(module, Clock):
                self.clocks.append(module)
                continue
            for table in TABLES:
                self._watch(f"{name}.{table}", module.__dict__[table])
            for table in (module._parameters, module._buffers):
                held |= {id(t): t for t in table.values() if t is not None}
            if isinstance(module, Rewritten):  # it notes its last run in attributes
                self._watch(f"{name}.calls", module.calls)
                continue
            self._watch(name or "the model", module.__dict__)
            for leaf, value in module.__dict__.items():
                if leaf not in OTHERS:
                    for t in self._inside(f"{name}.{leaf}", value, DEEPEST):
                        held[id(t)] = t
        hooked -= len(self.readers)
        self._sort()
        self.tensors, self.owned = list(held.values()), frozenset(held)
        self.objection = "modules have hooks" if hooked else ""
        if any(t.is_inference() for t in self.tensors):
            self.objection = "tensors of the model come from inference mode: nobody counts changes"
        else:
            self.versions = list(map(_version, self.tensors))

    def change(self) -> str:
        """What has changed since; empty where nothing has."""
        kernels = native.kernels()
        assert kernels is not None
        place: int = kernels.first_filled(self.empty)
        if place >= 0:
            return self.names[place]
        place = kernels.first_change(self.containers, self.copies)
        if place >= 0:
            return self.names[len(self.empty) + place]
        if not self.objection and kernels.first_other(self.tensors, "_version", self.versions) >= 0:
            return "numbers of a tensor"
        return ""

    def learns(self) -> bool:
        """Whether a tensor of the model wants gradients."""
        return any(t.requires_grad for t in self.tensors)

    def _sort(self) -> None:
        """Put empty dicts, which are most, by themselves: they are soon looked through."""
        pairs = list(zip(self.names, self.containers, strict=True))
        empty = [(name, c) for name, c in pairs if isinstance(c, dict) and not c]
        filled = [(name, c) for name, c in pairs if c or isinstance(c, list)]
        self.names = [name for name, _ in (*empty, *filled)]
        self.empty = [c for _, c in empty]
        self.containers = [c for _, c in filled]
        self.copies = [copy_of(container) for container in self.containers]

    def _watch(self, name: str, container: Container) -> None:
        self.names.append(name)
        self.containers.append(container)

    def _inside(self, name: str, value: Any, depth: int) -> Iterator[Tensor]:
        """The tensors in an attribute; what can change without its place changing is watched."""
        if isinstance(value, Tensor):
            yield value
            return
        if depth == 0 or isinstance(value, nn.Module | type):
            return
        parts: Iterable[Any] = ()
        if isinstance(value, dict):
            self._watch(name, value)
            parts = value.values()
        elif isinstance(value, list):
            self._watch(name, value)
            parts = value
        elif isinstance(value, tuple):
            parts = value
        elif _is_foreign(value):
            self._watch(name, vars(value))
            parts = vars(value).values()
        for part in list(parts):
            yield from self._inside(name, part, depth - 1)


def _readers(net: nn.Module) -> list[TimeReader]:
    return [hook for hook in net._forward_pre_hooks.values() if isinstance(hook, TimeReader)]


def _is_foreign(value: Any) -> bool:
    """Whether this is an object of somebody's own class: a config, say."""
    known = type(value).__module__.partition(".")[0] in ("builtins", "torch", "bitcompress")
    return not known and not callable(value) and hasattr(value, "__dict__")


class Versions:
    """Tensors from outside of the model that a run has read, and whether they are as they were."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)
        self.counted = not any(t.is_inference() for t in self.tensors)
        self.versions = list(map(_version, self.tensors)) if self.counted else []

    def hold(self) -> bool:
        """Whether nobody has changed a number of them."""
        return list(map(_version, self.tensors)) == self.versions


def global_hooks() -> bool:
    """Whether somebody has hooked all modules there are."""
    return bool(all_modules._global_forward_hooks or all_modules._global_forward_pre_hooks)
