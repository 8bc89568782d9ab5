"""One recorded run: the model is run once as it is, and every call is written into an fx graph.

Nothing is symbolic, so any Python control flow is fine; what is recorded is what happened on this
input. Modules without children whose forward is torch's own are one `call_module` node; everything
else is `call_function` with the module whose forward made the call.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from bitcompress.errors import CaptureError
from bitcompress.graph.arguments import (
    detail_of,
    function_name,
    oddness,
    operands_of,
    tensors_of,
    versions_of,
)
from bitcompress.graph.pointwise import MODULES, POINTWISE
from bitcompress.graph.scope import (
    KINDS,
    OUTSIDE,
    QUIET,
    UNSUPPORTED,
    Frame,
    Scopes,
    watched_modules,
)
from bitcompress.layers import CONVOLUTIONS

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


OTHER_LAYERS = (nn.Conv3d, nn.ConvTranspose3d, nn.Bilinear, nn.RNNBase, nn.RNNCellBase)
"""Layers that multiply, for which there is no packed twin."""
LAYERS = (nn.Linear, *CONVOLUTIONS, *OTHER_LAYERS)
"""Layers that multiply."""


@dataclass
class Recording:
    """What one run did."""

    graph: fx.Graph
    calls: list[fx.Node] = field(default_factory=list)
    """Nodes that multiply, in order of execution."""
    pointwise: list[fx.Node] = field(default_factory=list)
    """Nodes that multiply nothing and may be taken over (graph/pointwise.py), likewise."""
    runs: list[str] = field(default_factory=list)
    """The module of each run of a forward; `run` in the meta of a node is its place here."""


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one node: it has no children, and its forward is torch's own."""
    forward = getattr(type(module), "forward", None)
    own = getattr(forward, "__module__", "") or ""
    return (
        own.startswith("torch.nn.") and "forward" not in vars(module) and not any(module.children())
    )


class _Recorder(TorchFunctionMode):
    """Writes each function call that makes tensors into a graph."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.scopes = Scopes()
        self.outside = Frame(OUTSIDE)
        self.recording = Recording(fx.Graph())
        self.muted: list[str] = []
        """Leaves that are running; what they call is their own."""
        self.nodes: dict[int, tuple[weakref.ref[Tensor], fx.Node]] = {}
        # Tensors are kept alive: a number of one that is gone would soon be that of another.
        self.known = {id(t): (name, t) for name, t in _named_tensors(net)}

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.muted:
            return func(*args, **kwargs)
        before = versions_of((args, kwargs))
        out = func(*args, **kwargs)
        written = [t for t, version in before if t._version != version]
        if written or tensors_of(out):
            node = self._note_function(func, args, kwargs, out)
            for tensor in written:
                self._bind_one(tensor, node)
                if tensor._base is not None:
                    self._bind_one(tensor._base, node)
        return out

    def _note_function(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> fx.Node:
        kind = KINDS.get(func) or UNSUPPORTED.get(func)
        node = self.recording.graph.call_function(
            func, tuple(self._arg(a) for a in args), {k: self._arg(v) for k, v in kwargs.items()}
        )
        frame = self.scopes.stack[-1] if self.scopes.stack else self.outside
        node.meta.update(owner=frame.owner, name=function_name(func))
        if kind is not None:
            operands = operands_of(func, args, kwargs)
            node.meta.update(
                kind=kind,
                ordinal=frame.ordinal(kind),
                run=frame.number,
                supported=func in KINDS,
                operand_nodes=[self._node(t) for t in operands],
                shapes=[tuple(t.shape) for t in operands],
                weights=[self.known.get(id(t), ("",))[0] for t in operands],
                detail=detail_of(kind, args, kwargs),
                odd=oddness(operands),
            )
            self.recording.calls.append(node)
        elif func in POINTWISE:
            self._note_pointwise(node, POINTWISE[func], frame)
        self._bind(out, node)
        return node

    def _note_pointwise(self, node: fx.Node, kind: str, frame: Frame) -> None:
        """Where a call that may be taken over stands: its owner, kind and ordinal."""
        node.meta.update(pointwise=(frame.owner, kind, frame.ordinal(kind)), run=frame.number)
        self.recording.pointwise.append(node)

    def note_module(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        """Write a leaf module's call as one node."""
        node = self.recording.graph.create_node(
            "call_module",
            name,
            tuple(self._arg(a) for a in args),
            {k: self._arg(v) for k, v in kwargs.items()},
        )
        tensors = tensors_of((args, kwargs))
        node.meta.update(
            owner=name,
            name=type(module).__name__,
            module=module,
            operand_nodes=[self._node(t) for t in tensors],
            shapes=[tuple(t.shape) for t in tensors],
            out_shape=tuple(tensors_of(out)[0].shape) if tensors_of(out) else (),
        )
        if isinstance(module, LAYERS):
            run = len(self.recording.runs)
            self.recording.runs.append(name)
            node.meta.update(kind=type(module).__name__, ordinal=0, run=run, odd=oddness(tensors))
            self.recording.calls.append(node)
        elif type(module) in MODULES:
            # What runs unwatched counts as a call of the module around it (graph/scope.py).
            around = self.scopes.stack[-1] if self.scopes.stack else self.outside
            frame = around if type(module) in QUIET else Frame(name)
            self._note_pointwise(node, MODULES[type(module)], frame)
        self._bind(out, node)

    def enter(self, owner: str) -> None:
        """A module that is no leaf begins to run."""
        self.scopes.stack.append(Frame(owner, number=len(self.recording.runs)))
        self.recording.runs.append(owner)

    def _bind(self, out: Any, node: fx.Node) -> None:
        tensors = tensors_of(out)
        node.meta["out_shape"] = tuple(tensors[0].shape) if tensors else ()
        for tensor in tensors:
            self._bind_one(tensor, node)

    def _bind_one(self, tensor: Tensor, node: fx.Node) -> None:
        self.nodes[id(tensor)] = (weakref.ref(tensor), node)

    def _node(self, tensor: Tensor) -> fx.Node:
        """The node that made a tensor; where none did, one for what was there before the run.

        A tensor that neither a recorded call nor the model's own attributes explain was made out
        of sight (TorchScript, NumPy): it may depend on the input, and `unseen` says so.
        """
        made = self.nodes.get(id(tensor))
        if made is not None and made[0]() is tensor:
            return made[1]
        name = self.known.get(id(tensor), ("",))[0]
        node = self.recording.graph.create_node("get_attr", name or "constant")
        node.meta.update(
            owner="", name="get_attr", parameter=name, unseen=id(tensor) not in self.known
        )
        self._bind_one(tensor, node)
        return node

    def _arg(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._node(value)
        if isinstance(value, list | tuple):
            return tuple(self._arg(v) for v in value)
        if isinstance(value, dict):
            return {str(k): self._arg(v) for k, v in value.items()}
        if value is None or isinstance(
            value, int | float | bool | str | torch.dtype | torch.device
        ):
            return value
        return repr(type(value))


def record(net: nn.Module, inputs: Inputs) -> Recording:
    """Run `net` once on `inputs` and give the graph of what it did; the net is left as it was.

    Raises: CaptureError if the model itself fails on these inputs.
    """
    recorder = _Recorder(net)
    args, kwargs = inputs
    for i, value in enumerate(tensors_of((args, kwargs))):
        node = recorder.recording.graph.placeholder(f"input_{i}")
        node.meta.update(owner="", name="input")
        recorder.nodes[id(value)] = (weakref.ref(value), node)
    modes = [(module, module.training) for module in net.modules()]
    handles: list[RemovableHandle] = []
    net.eval()
    try:
        _watch(net, recorder, handles)
        with torch.no_grad(), recorder:
            out = net(*args, **kwargs)
    except Exception as error:
        raise CaptureError(
            f"{type(net).__name__} fails on its example input "
            f"({', '.join(str(tuple(t.shape)) for t in tensors_of((args, kwargs)))}): "
            f"{type(error).__name__}: {error}; give inputs that the model takes"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    recorder.recording.graph.output(tuple(recorder._node(t) for t in tensors_of(out)))
    return recorder.recording


def _watch(net: nn.Module, recorder: _Recorder, handles: list[RemovableHandle]) -> None:
    """Tell the recorder of each run of a module; a frame spans the forward, as in scope.track."""

    def enter(name: str, leaf: bool) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            if leaf:
                recorder.muted.append(name)
            elif not recorder.muted:
                recorder.enter(name)

        return hook

    def leave(name: str, leaf: bool) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            stack, muted = recorder.scopes.stack, recorder.muted
            if leaf and muted and muted[-1] == name:
                muted.pop()
                if not muted and out is not None:
                    recorder.note_module(name, module, args, kwargs, out)
            elif not leaf and not muted and stack and stack[-1].owner == name:
                stack.pop()

        return hook

    for name, module in watched_modules(net):
        leaf = is_leaf(module)
        handles.append(module.register_forward_pre_hook(enter(name, leaf)))
        handles.append(
            module.register_forward_hook(
                leave(name, leaf), prepend=True, with_kwargs=True, always_call=True
            )
        )


def _named_tensors(net: nn.Module) -> list[tuple[str, Tensor]]:
    """What the model holds before it runs: parameters, buffers, plain attributes (without name)."""
    plain = [("", t) for m in net.modules() for t in tensors_of(_attributes(m))]
    return [*plain, *net.named_parameters(), *net.named_buffers()]


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {k: v for k, v in vars(module).items() if k not in ("_parameters", "_buffers")}
