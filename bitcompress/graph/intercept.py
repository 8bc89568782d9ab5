"""The rewritten model: the user's own forward, with layers swapped and function calls replaced.

Module edits live in the module tree. Edits of function calls are keyed by where the call stands
(graph/scope.py); a function mode, on only while the model runs, sends those calls to the modules
in `products`. So the Python control flow of the original stays, and every input size works.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bitcompress import native
from bitcompress.errors import BitcompressError
from bitcompress.graph.calls import Product, run_attention, run_einsum, run_matmul
from bitcompress.graph.defer import Deferrals, Deferred, Fusions, computed
from bitcompress.graph.pointwise import POINTWISE, run_pointwise
from bitcompress.graph.reals import REALS
from bitcompress.graph.scope import KINDS, Scopes, track

DEVICE = Tensor.device.__get__
"""The function that reads where a tensor is."""


class Call(NamedTuple):
    """Where a function call stands."""

    owner: str
    kind: str
    ordinal: int


def escape(name: str) -> str:
    """A site's name as a module name, which may hold no dot."""
    return name.replace(".", "/")


class Rewritten(nn.Module):
    """A model with some of its layers and products replaced; takes what the original took.

    `net` is the user's module tree; `products` holds what replaces function calls, by site name.
    Attributes of the original are reached through this module. Its modules may be called by
    themselves, and from several threads at once.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.products = nn.ModuleDict()
        self.calls: dict[Call, dict[str, str]] = {}
        self.scopes = Scopes()
        self.fusions = Fusions()
        """What was fused in the last whole run, and what was not (graph/defer.py)."""
        self.on_codes = False
        """Whether what stands between layers is that of packed/ too (graph/reals.py)."""
        self._tracking = False
        self.origins: Any = None
        """What blocks stand for, until they are settled (blocks/student.py)."""
        self.programs: Any = None
        """What runs in place of the forward for sizes that came before (program/cache.py)."""

    def replace_call(self, call: Call, part: str, name: str, module: nn.Module) -> None:
        """Send a function call (or one `part` of it) to `module`."""
        self.products[escape(name)] = module
        self.calls.setdefault(call, {})[part] = escape(name)
        if not self._tracking:
            track(self.net, self.scopes, self._intercepting)
            self._tracking = True

    def place(self, name: str) -> nn.Module:
        """The module that stands at a site now."""
        if escape(name) in self.products:
            return self.products[escape(name)]
        return self.net.get_submodule(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the original computes, on the replaced layers."""
        if self.programs is not None and not torch.compiler.is_compiling():
            return self.programs.run(self.run_net, args, kwargs)
        return self.run_net(*args, **kwargs)

    def run_net(self, *args: Any, **kwargs: Any) -> Any:
        """The user's own forward, step by step."""
        plain = torch.compiler.is_compiling() and not native.is_traced()
        if not self.calls and (not self.on_codes or plain):
            return self.net(*args, **kwargs)
        outside = self.scopes.stack
        self.scopes.stack = []
        try:
            with _Interceptor(self) as mode:
                y = self.net(*args, **kwargs)
            self.fusions = mode.deferrals.fusions
            return _delivered(y) if mode.deferrals.pending else y
        finally:
            # Hooks do not see an interrupt from the keyboard: no frame may outlive its run.
            self.scopes.stack = outside

    def _apply(self, fn: Any, recurse: bool = True) -> Rewritten:
        """What `.to()`, `.cpu()` and the like do: emptied parameters stay empty, types stay.

        Raises: BitcompressError for another floating type: codes stand for float32 numbers.
        """
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.is_meta or not tensor.is_floating_point():
                continue
            if fn(tensor[:0] if tensor.dim() else tensor).dtype != tensor.dtype:
                raise BitcompressError(
                    "a rewritten model computes in the types that it was made for: leave it as "
                    "it is and convert what goes in and comes out, e.g. model(x.float()).half()"
                )
            break
        super()._apply(lambda t: t if t.is_meta else fn(t), recurse)  # type: ignore[no-untyped-call]
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Rewritten:
        """A copy that shares nothing; the copy of an exported program would lose its hooks."""
        fresh = Rewritten.__new__(Rewritten)
        memo[id(self)] = fresh
        fresh.__dict__ = copy.deepcopy(self.__dict__, memo)
        if fresh._tracking:
            track(fresh.net, fresh.scopes, fresh._intercepting)
        return fresh

    def device_of(self, tensor: Tensor) -> torch.device:
        """Where a tensor is; an emptied parameter is where the model is.

        Forwards ask their first parameter where to put their inputs.
        """
        if not any(tensor is parameter for parameter in self.parameters()):
            return tensor.device
        held = (t.device for t in (*self.parameters(), *self.buffers()) if not t.is_meta)
        return next(held, torch.device("cpu"))

    def _intercepting(self) -> _Interceptor:
        return _Interceptor(self)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("net", "_modules") or (name.startswith("__") and name.endswith("__")):
                raise
            return getattr(self.net, name)


class _Interceptor(TorchFunctionMode):
    """Sends the function calls of one run to their replacements."""

    def __init__(self, model: Rewritten) -> None:
        super().__init__()
        self.model = model
        self.scopes = model.scopes
        self.outer: object = None
        self.deferrals = Deferrals()

    def __enter__(self) -> _Interceptor:
        self.outer, self.scopes.mode = self.scopes.mode, self
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        self.scopes.mode = self.outer
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kind = KINDS.get(func)
        kwargs = kwargs or {}
        if kind is None and func in POINTWISE:
            taken = self._taken_over(POINTWISE[func])
            if taken is not None:
                return run_pointwise(taken, func, args, kwargs)
        if kind is None:
            y = self._ours(func, args, kwargs)
            if y is not NotImplemented:
                return y
            if func == DEVICE and not isinstance(args[0], Deferred) and args[0].is_meta:
                return self.model.device_of(args[0])
            if self.deferrals.pending:
                return self._beside_waiting(func, args, kwargs)
            return func(*args, **kwargs)
        parts = None
        if self.scopes.mode is self and self.scopes.stack:
            frame = self.scopes.stack[-1]
            parts = self.model.calls.get(Call(frame.owner, kind, frame.ordinal(kind)))
        if parts is None:
            y = self._ours(func, args, kwargs)
            return func(*args, **kwargs) if y is NotImplemented else y
        modules = {part: self.model.products[name] for part, name in parts.items()}
        if kind in ("linear", "conv2d") and not _is_meant(modules[""], args, kwargs):
            return func(*args, **kwargs)
        return _run(kind, modules, self.deferrals, func, args, kwargs)

    def _ours(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What stands in for a function while layers are on codes; NotImplemented for nothing."""
        stand_in = REALS.get(func) if self.model.on_codes else None
        return NotImplemented if stand_in is None else stand_in(*args, **kwargs)

    def _taken_over(self, kind: str) -> nn.Module | None:
        """What stands at a call that multiplies nothing; None where it is the model's own."""
        if self.scopes.mode is not self or not self.scopes.stack:
            return None
        frame = self.scopes.stack[-1]
        parts = self.model.calls.get(Call(frame.owner, kind, frame.ordinal(kind)))
        return None if parts is None else self.model.products[parts[""]]

    def _beside_waiting(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A function that is no product, while some product has not been computed yet."""
        if any(isinstance(arg, Deferred) for arg in args):
            made = self.deferrals.follow(func, args, kwargs)
            if made is not NotImplemented:
                return made
        name = getattr(func, "__name__", "")
        if (
            name == "__setitem__"
            or "out" in kwargs
            or name.startswith("__i")
            or (name.endswith("_") and not name.endswith("__"))
        ):
            self.deferrals.flush(name)
        return func(*args, **kwargs)


def _delivered(out: Any) -> Any:
    """An output with every number in it computed; containers stay of their kind."""
    if isinstance(out, Deferred):
        return computed(out, "the output")
    if isinstance(out, tuple) and hasattr(out, "_make"):
        return out._make(_delivered(part) for part in out)
    if type(out) in (tuple, list):
        return type(out)(_delivered(part) for part in out)
    if isinstance(out, dict):
        for key, part in list(out.items()):
            done = _delivered(part)
            if done is not part:
                out[key] = done
    elif dataclasses.is_dataclass(out) and not isinstance(out, type | nn.Module):
        for field in dataclasses.fields(out):
            part = getattr(out, field.name, None)
            done = _delivered(part)
            if done is not part:
                object.__setattr__(out, field.name, done)
    return out


def _run(
    kind: str,
    modules: Mapping[str, nn.Module],
    deferrals: Deferrals,
    func: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    if kind == "matmul":
        return run_matmul(_waiting(modules[""], deferrals), func, args, kwargs)
    if kind == "einsum":
        return run_einsum(modules[""], args, kwargs)
    if kind == "sdpa":
        both = {"qk", "av"} <= modules.keys()
        products = {
            part: _waiting(module, deferrals) if both else module
            for part, module in modules.items()
        }
        return run_attention(products, *args, **kwargs)
    x = args[0] if args else kwargs["input"]
    return modules[""](x)


def _waiting(module: nn.Module, deferrals: Deferrals) -> Product:
    """The product as part of an attention: logits wait, weights that wait are used up."""

    def product(a: Tensor, b: Tensor) -> Tensor:
        if isinstance(a, Deferred):
            return deferrals.attend(module, a, b)
        return deferrals.defer(module, a, b)

    return product


def _is_meant(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a linear or convolution is the one replaced: its weight has been stripped.

    Data may lead the forward another way, where the call of that number has another weight.
    """
    weight: Tensor = args[1] if len(args) > 1 else kwargs["weight"]
    meant: Any = getattr(module, "stands_for", None) or module.weight.shape
    return weight.is_meta and tuple(weight.shape) == tuple(meant)


def tensor_at(net: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of that name."""
    owner, _, leaf = name.rpartition(".")
    found = getattr(net.get_submodule(owner), leaf)
    assert isinstance(found, Tensor)
    return found


def strip_parameter(net: nn.Module, name: str) -> None:
    """Replace a parameter that nothing computes with any more by an empty one of its shape.

    It stays on the meta device: its shape can still be asked for, its bytes are gone, and a use
    that was overlooked is an error instead of a silent float.
    """
    old = tensor_at(net, name)
    empty = torch.empty_like(old, device="meta")
    gone = nn.Parameter(empty, requires_grad=False) if isinstance(old, nn.Parameter) else empty
    for module in net.modules():
        for table in (module._parameters, module._buffers):
            for leaf in [leaf for leaf, tensor in table.items() if tensor is old]:
                table[leaf] = gone  # type: ignore[assignment]
