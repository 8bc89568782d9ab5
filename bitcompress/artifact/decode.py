"""Bytes become a packed model: the records and their data first, then the tree they go into."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.artifact import checks, container, kinds, skeleton
from bitcompress.artifact.blobs import DTYPES, Coding, Reader
from bitcompress.artifact.encode import FORMAT, READABLE
from bitcompress.artifact.index import Index, Spec
from bitcompress.errors import LoadError
from bitcompress.graph.intercept import Rewritten
from bitcompress.graph.swap import inherit, stand_in
from bitcompress.layers import ConvGeometry, SplitLinear

TENSORS = ("parameter", "buffer")
ABSENT = {f"absent {kind}": kind for kind in TENSORS}


@dataclass(frozen=True)
class Stored:
    """A tensor of the float remainder; `tensor` is None where nothing computes with it any more."""

    shape: tuple[int, ...]
    buffer: bool
    tensor: Tensor | None


@dataclass(frozen=True)
class Content:
    """Everything in a file, read and looked at, not yet in a model."""

    index: Index
    layers: dict[str, nn.Module]
    tensors: dict[str, Stored]
    products: dict[str, nn.Module]
    sizes: dict[str, int]
    """Bytes of each tensor and field by its full name, codes under that of the weight."""

    def resolve(self, name: str) -> str:
        """The name under which something shared is stored."""
        found: str = self.index.same.get(name, name)
        return found


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
    content = Content(index, {}, {}, {}, reader.sizes)
    for name, spec in index.entries:
        kind = checks.string(checks.entry(spec, "is", name), f"the kind of {checks.shorten(name)}")
        if kind in TENSORS or kind in ABSENT:
            content.tensors[name] = _tensor(reader, spec, kind, name)
        else:
            content.layers[name] = kinds.take(reader, spec, name)
    for product in index.products:
        content.products[product.name] = kinds.take(reader, product.spec, product.name)
    reader.finish(what)
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
    if kind == "parameter" and (not floats or not bool(torch.isfinite(tensor).all())):
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
    return rewritten.eval()


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


def check_structure(net: nn.Module, content: Content) -> None:
    """Raise LoadError, naming the key, unless file and skeleton have the same parts."""
    same = content.index.same
    layers = [n for n in (*content.layers, *same) if content.resolve(n) in content.layers]
    tensors = [n for n in (*content.tensors, *same) if content.resolve(n) in content.tensors]
    for name in layers:
        _check_layer(net, name, content.layers[content.resolve(name)])
    for name in tensors:
        _check_tensor(net, name, content.tensors[content.resolve(name)])
    for product in content.index.products:
        _module(net, product.call.owner, "a function call in it")
    if "" not in layers:
        held = set(tensors)
        for name in _expected(net, "", set(layers)):
            if name not in held:
                raise LoadError(
                    f"the model has {name!r}, the file does not: they are not the same model"
                )


def _expected(module: nn.Module, name: str, layers: set[str]) -> list[str]:
    """The tensors that a file of this module tree holds beside the layers."""
    if name in layers:
        return []
    start = f"{name}." if name else ""
    found = [start + leaf for leaf, p in module._parameters.items() if p is not None]
    found += [
        start + leaf
        for leaf, b in module._buffers.items()
        if b is not None and leaf not in module._non_persistent_buffers_set
    ]
    for leaf, child in module._modules.items():
        if child is not None:
            found += _expected(child, start + leaf, layers)
    return found


def _module(net: nn.Module, name: str, what: str) -> nn.Module:
    try:
        return net.get_submodule(name)
    except AttributeError as error:
        raise LoadError(
            f"the file has {what} {checks.shorten(name)}, the model does not: they are not the "
            "same model"
        ) from error


def _check_layer(net: nn.Module, name: str, layer: nn.Module) -> None:
    place = _module(net, name, "the layer")
    wanted, geometry = _sizes(layer)
    kind = nn.Linear if len(wanted) == 2 else nn.Conv2d
    if not isinstance(place, kind):
        raise LoadError(
            f"{checks.shorten(name)} is a {type(place).__name__} in the model and a "
            f"{kind.__name__} in the file"
        )
    if tuple(place.weight.shape) != wanted:
        raise LoadError(
            f"{checks.shorten(name)} is {tuple(place.weight.shape)} in the model and {wanted} in "
            "the file"
        )
    if isinstance(place, nn.Conv2d) and _geometry(place) != geometry:
        raise LoadError(
            f"{checks.shorten(name)} has another stride, padding or dilation in the file"
        )


def _sizes(layer: Any) -> tuple[tuple[int, ...], ConvGeometry | None]:
    if isinstance(layer, SplitLinear):
        parts = [_sizes(part)[0] for part in layer.parts]
        return (sum(rows for rows, _ in parts), parts[0][1]), None
    shape = layer.weight_shape if hasattr(layer, "weight_shape") else layer.weight.shape
    return tuple(shape), getattr(layer, "geometry", None)


def _geometry(conv: nn.Conv2d) -> ConvGeometry:
    padding = conv.padding if isinstance(conv.padding, str) else _pair(conv.padding)
    return ConvGeometry.of(
        _pair(conv.kernel_size), _pair(conv.stride), padding, _pair(conv.dilation), conv.groups,
        conv.padding_mode,
    )  # fmt: skip


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def _check_tensor(net: nn.Module, name: str, stored: Stored) -> None:
    owner, _, leaf = name.rpartition(".")
    module = _module(net, owner, "a tensor of")
    table = module._buffers if stored.buffer else module._parameters
    if leaf not in table:
        kind = "buffer" if stored.buffer else "parameter"
        raise LoadError(f"the file has the {kind} {checks.shorten(name)}, the model does not")
    old = table[leaf]
    if old is not None and tuple(old.shape) != stored.shape:
        raise LoadError(
            f"{checks.shorten(name)} is {tuple(old.shape)} in the model and {stored.shape} in the "
            "file"
        )
