"""Capture: a model and an example become a list of places that multiply, with facts on each.

The ladder: the module tree always works; a recorded run adds functional products, shapes and roles;
a second recorded run at another size shows what depends on the data. The model itself is never
changed: everything works on it as it is, or on a deep copy.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bitcompress.errors import CaptureError
from bitcompress.graph.record import LAYERS, Inputs, Recording, record
from bitcompress.graph.site import Site
from bitcompress.graph.sites import (
    Changing,
    changing_calls,
    fixed_heads,
    module_site,
    recorded_sites,
)
from bitcompress.graph.sizes import other_sizes


@dataclass(frozen=True)
class Captured:
    """A model as bitcompress sees it."""

    net: nn.Module
    """The deep copy that rules edit."""
    inputs: Inputs
    recording: Recording | None
    sites: tuple[Site, ...]
    tier: str
    """`recorded`, or `module` where no run could be recorded."""
    notes: tuple[str, ...] = field(default=())
    changing: Changing = frozenset()
    """Where calls of one kind are not the same ones in each run."""

    def site(self, name: str) -> Site:
        """The place of that name."""
        return next(site for site in self.sites if site.name == name)


def as_inputs(example: Any) -> Inputs:
    """An example input as (args, kwargs): a tensor, a tuple of arguments, or a dict of keywords."""
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if (
        isinstance(example, tuple)
        and len(example) == 2
        and isinstance(example[0], tuple)
        and isinstance(example[1], dict)
    ):
        return example
    if isinstance(example, list | tuple):
        return tuple(example), {}
    raise CaptureError(
        f"example inputs are a {type(example).__name__}; give a tensor, a tuple of arguments or a "
        "dict of keyword arguments"
    )


def check_alive(model: nn.Module) -> None:
    """Raise CaptureError if a parameter or buffer holds no numbers."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise CaptureError(f"{name} has no shape yet: run the model once on an example input")
        if tensor.is_meta:
            raise CaptureError(
                f"{name} is on the meta device, where tensors have no numbers: load the weights "
                "first"
            )


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode, so that nothing done to it reaches the caller's model.

    Raises: CaptureError if the model holds what cannot be copied.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(
            "the model is TorchScript, whose code is frozen: give the Python model, or the "
            "exported program of it"
        )
    try:
        net = without_compilers(copy.deepcopy(model, plain_numbers(model)))
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be deep-copied ({type(error).__name__}: {error}); "
            "detach cached tensors and drop open files or locks held by the module"
        ) from error
    try:
        return net.eval()
    except NotImplementedError:
        return _of_fixed_mode(net)


def without_compilers(net: nn.Module) -> nn.Module:
    """The same tree with the module in the place of each that torch.compile made of one.

    What a compiler has taken over cannot be followed; compile the packed model instead.
    """
    if _is_compiled(net):
        return without_compilers(net.get_submodule("_orig_mod"))
    for module in list(net.modules()):
        for name, child in list(module._modules.items()):
            if child is not None and _is_compiled(child):
                module._modules[name] = without_compilers(child.get_submodule("_orig_mod"))
    return net


def _is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile made it; asked by name, as the compiler is slow to import."""
    return "_orig_mod" in module._modules and type(module).__module__.startswith("torch._dynamo")


def plain_numbers(model: nn.Module) -> dict[int, Any]:
    """A memo for deepcopy: tensors that a run left in attributes become plain numbers.

    torch refuses to copy them with the graph of gradients that they hang on.
    """
    return {
        id(t): t.detach().clone()
        for module in model.modules()
        for t in _held_tensors(vars(module))
        if not t.is_leaf
    }


def _of_fixed_mode(net: nn.Module) -> nn.Module:
    """The module of an exported program, which refuses eval(): its mode was fixed at export."""
    net.training = False
    net.train = types.MethodType(lambda self, mode=True: self, net)  # type: ignore[method-assign]
    net.eval = types.MethodType(lambda self: self, net)  # type: ignore[method-assign]
    return net


def _held_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _held_tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _held_tensors(part)


def capture(net: nn.Module, example: Any, *, second_size: bool = True) -> Captured:
    """See a model through one recorded run, and a second one at another size where that works.

    `net` is used as it is (give a `private_copy`). A run that fails on the example is an error;
    a second run that fails is a note, since many models take one size only.
    Raises: CaptureError if the model fails on the example.
    """
    inputs = as_inputs(example)
    first = record(net, inputs)
    notes: list[str] = []
    second = _second_recording(net, inputs, notes) if second_size else None
    both = [first] if second is None else [first, second]
    changing = changing_calls(both)
    sites = recorded_sites(net, first, changing)
    if second is not None:
        sites = fixed_heads(sites, second)
    return Captured(net, inputs, first, tuple(sites), "recorded", tuple(notes), changing)


def capture_tree(net: nn.Module) -> Captured:
    """See a model by its module tree alone: layers without shapes or roles, no functional calls."""
    sites = [
        module_site(name, module) for name, module in net.named_modules()
        if isinstance(module, LAYERS)
    ]  # fmt: skip
    note = "no recorded run: functional products are not seen"
    return Captured(net, ((), {}), None, tuple(sites), "module", (note,))


def _second_recording(net: nn.Module, inputs: Inputs, notes: list[str]) -> Recording | None:
    said = "no picture or sequence among the inputs to vary"
    for grown in other_sizes(inputs):
        try:
            return record(net, grown)
        except CaptureError as error:
            said = f"at another size the {error}"
    notes.append(f"one input size recorded: {said}")
    return None
