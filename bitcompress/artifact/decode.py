"""Bytes become a packed model: the records and their data first, then the tree they go into."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.artifact import checks, container, kinds, skeleton
from bitcompress.artifact.blobs import DTYPES, Coding, Reader
from bitcompress.artifact.encode import FORMAT, READABLE
from bitcompress.artifact.index import Index, Spec
from bitcompress.artifact.structure import (
    Content,
    Stored,
    check_absent,
    check_kinds,
    check_structure,
)
from bitcompress.errors import LoadError, RecipeError
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.swap import inherit, stand_in
from bitcompress.graph.timed import TimeInput, set_by, time_input
from bitcompress.layers.binary import Clock
from bitcompress.program import use_programs

TENSORS = ("parameter", "buffer")
ABSENT = {f"absent {kind}": kind for kind in TENSORS}


def check_version(version: object, what: str) -> None:
    """Raise LoadError if a file is of another format than this bitcompress reads."""
    if version not in READABLE:
        raise LoadError(
            f"{what} has format_version {checks.shorten(version)}, this bitcompress reads "
            f"{READABLE[0]} to {READABLE[-1]}: install the version that wrote it, or quantize again"
        )


def decode(data: bytes, what: str = "model.safetensors") -> Content:
    """What the bytes of model.safetensors hold. Raises: LoadError where they are damaged."""
    blobs, metadata = container.read(data, what)
    if metadata.get("format") != FORMAT:
        raise LoadError(
            f"{what} is no packed model: bitcompress quantize makes one of a checkpoint"
        )
    version = metadata.get("format_version", "")
    check_version(int(version) if version.isdecimal() and len(version) < 9 else version, what)
    index = Index.from_text(checks.entry(metadata, "index", what))
    reader = Reader(blobs)
    told = index.time
    clock = None if told is None else Clock(told.groups, told.steps, told.span)
    content = Content(index, {}, {}, {}, reader.sizes, clock)
    for name, spec in index.entries:
        kind = checks.string(checks.entry(spec, "is", name), f"the kind of {checks.shorten(name)}")
        if kind in TENSORS or kind in ABSENT:
            content.tensors[name] = _tensor(reader, spec, kind, name)
        else:
            content.layers[name] = kinds.take(reader, spec, name, clock)
    for product in index.products:
        content.products[product.name] = kinds.take(reader, product.spec, product.name, clock)
    reader.finish(what)
    check_kinds(content)
    check_absent(content)
    return content


def _tensor(reader: Reader, spec: Spec, kind: str, name: str) -> Stored:
    shape = checks.shape(checks.entry(spec, "shape", name), f"the shape of {name}")
    if kind in ABSENT:
        return Stored(shape, ABSENT[kind] == "buffer", None)
    dtype = checks.entry(spec, "dtype", name)
    if type(dtype) is not str or dtype not in DTYPES:
        raise LoadError(f"{name} is of the unknown type {checks.shorten(dtype)}")
    coding = Coding.from_json(checks.entry(spec, "as", name), name)
    tensor = reader.take(shape, DTYPES[dtype], coding, name)
    floats = tensor.is_floating_point() or tensor.is_complex()
    if kind == "parameter" and floats and not bool(torch.isfinite(tensor).all()):
        raise LoadError(f"{name} is no parameter of finite numbers: the file is damaged")
    return Stored(shape, kind == "buffer", tensor)


def assemble(content: Content, *, model: nn.Module | None, trust_arch: bool) -> Rewritten:
    """The packed model, in eval mode, of a file's content.

    Raises: LoadError where the skeleton is not that of the file.
    """
    index = content.index
    net = skeleton.build(
        index.source, index.edits, lambda net: check_structure(net, content),
        model=model, trust_arch=trust_arch, size=len(index.entries),
    )  # fmt: skip
    for name, stored in content.tensors.items():
        gone = torch.empty(stored.shape, device="meta")
        _fill(net, name, gone if stored.tensor is None else stored.tensor, stored.buffer)
    for alias, name in index.same.items():
        if name in content.tensors:
            owner, _, leaf = name.rpartition(".")
            _fill(net, alias, getattr(net.get_submodule(owner), leaf), content.tensors[name].buffer)
    rewritten = Rewritten(_with_layers(net, content))
    for product in index.products:
        rewritten.replace_call(
            product.call, product.part, product.name, content.products[product.name]
        )
    rewritten.on_codes = bool(content.layers or content.products)
    if index.time is not None and content.clock is not None:
        set_by(rewritten, content.clock, _timestep(net, index.time.argument))
    use_programs(rewritten)
    return rewritten.eval()


def _timestep(net: nn.Module, name: str) -> TimeInput:
    """The argument that sets the clock. Raises: LoadError where the model has none of that name."""
    try:
        found = time_input(net, name)
    except RecipeError as error:
        raise LoadError(f"{error}; the file was made from another model") from error
    assert found is not None
    return found


def _with_layers(net: nn.Module, content: Content) -> nn.Module:
    """The tree with its layers in place; what they replace may also stand in lists of a module."""
    elsewhere = {id(m) for module in net.modules() for m in _listed(vars(module).items())}
    for name in (*content.layers, *content.index.same):
        layer = content.layers.get(content.resolve(name))
        if layer is None:
            continue
        old = net.get_submodule(name)
        if old is net or id(old) in elsewhere:
            net = stand_in(net, old, layer)
        elif old is not layer:
            inherit(old, layer)
            owner, _, leaf = name.rpartition(".")
            net.get_submodule(owner)._modules[leaf] = layer
    return net


def _listed(attributes: Iterable[tuple[str, Any]]) -> Iterator[nn.Module]:
    """The modules in plain attributes: in lists, tuples and dicts, or by themselves."""
    for name, value in attributes:
        if name == "_modules" or not isinstance(value, dict | list | tuple | nn.Module):
            continue
        if isinstance(value, nn.Module):
            yield value
        else:
            parts = value.values() if isinstance(value, dict) else value
            yield from _listed(("", part) for part in parts)


def _fill(net: nn.Module, name: str, tensor: Tensor, buffer: bool) -> None:
    owner, _, leaf = name.rpartition(".")
    module = net.get_submodule(owner)
    if buffer:
        module._buffers[leaf] = tensor
    elif isinstance(tensor, nn.Parameter):
        module._parameters[leaf] = tensor
    else:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
