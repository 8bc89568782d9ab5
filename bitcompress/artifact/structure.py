"""Whether a file fits together, and fits the model that it is read into; if not, a LoadError."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bitcompress.artifact import binary, checks
from bitcompress.artifact.index import Index
from bitcompress.blocks.parts import Parts
from bitcompress.errors import LoadError
from bitcompress.graph.pointwise import ACTIVATIONS, POINTWISE
from bitcompress.layers import CONVOLUTIONS, ConvGeometry, PackedMatmul, QuantMatmul, SplitLinear
from bitcompress.layers.binary import Clock, EndActivation, PackedBlock
from bitcompress.layers.geometry import Convolution, refusal

PRODUCTS = (PackedMatmul, QuantMatmul)
BLOCKS = (PackedBlock, Parts)


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
    clock: Clock | None = None
    """What its time-aware blocks share."""

    def resolve(self, name: str) -> str:
        """The name under which something shared is stored."""
        found: str = self.index.same.get(name, name)
        return found


def check_kinds(content: Content) -> None:
    """Raise LoadError where a layer is of a kind that cannot stand where the file puts it."""
    for name, layer in content.layers.items():
        if isinstance(layer, (*PRODUCTS, *binary.BEHIND)):
            raise LoadError(f"{checks.shorten(name)} is a product in the tree: it is damaged")
    for product in content.index.products:
        layer, kind = content.products[product.name], product.call.kind
        if isinstance(layer, binary.BEHIND) or kind in POINTWISE.values():
            fits = ACTIVATIONS if isinstance(layer, EndActivation) else POINTWISE.values()
            if isinstance(layer, binary.BEHIND) and kind in fits:
                continue
            raise LoadError(f"{checks.shorten(product.name)} is damaged: no {kind} is absorbed")
        weighted = {"linear": 2, "conv2d": 4}.get(kind)
        dimensions = None if isinstance(layer, PRODUCTS) else len(_float_shape(layer))
        if weighted != dimensions or (kind == "sdpa") != bool(product.part):
            raise LoadError(
                f"{checks.shorten(product.name)} is damaged: its record does not fit a {kind}"
            )


def check_absent(content: Content) -> None:
    """Raise LoadError unless just those tensors are absent that replaced calls took over.

    Each functional linear or convolution took over one weight, and one bias if it had any; any
    other absent tensor would be missed when the model runs.
    """
    weights, biases = Counter[tuple[int, ...]](), Counter[tuple[int, ...]]()
    for layer in content.products.values():
        if not isinstance(layer, (*PRODUCTS, *binary.BEHIND)):
            shape = _float_shape(layer)
            weights[shape] += 1
            biases[shape[:1]] += 1
    for name, stored in content.tensors.items():
        if stored.tensor is None:
            left = biases if len(stored.shape) == 1 else weights
            left[stored.shape] -= 1
            if left[stored.shape] < 0:
                raise LoadError(
                    f"{checks.shorten(name)} has no numbers in the file and nothing that replaces "
                    "it: the file is damaged"
                )
    missing = +weights
    if missing:
        raise LoadError(
            f"a function call has a weight of its own of shape {min(missing)}, and the model keeps "
            "one too: the file is damaged"
        )


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
    if isinstance(layer, BLOCKS):
        geometry = getattr(layer, "geometry", None)
        kind_name, shape = binary.float_layer(layer)
        kind: Any = getattr(nn, kind_name)
    else:
        wanted, geometry = _sizes(layer)
        kind = _float_kind(geometry)
        shape = wanted if geometry is None else geometry.float_shape(wanted)
    if not isinstance(place, kind):
        raise LoadError(
            f"{checks.shorten(name)} is a {type(place).__name__} in the model and a "
            f"{kind.__name__} in the file"
        )
    if tuple(place.weight.shape) != shape:
        raise LoadError(
            f"{checks.shorten(name)} is {tuple(place.weight.shape)} in the model and {shape} in "
            "the file"
        )
    if isinstance(layer, Parts):
        return
    if isinstance(place, CONVOLUTIONS) and (
        refusal(place) or ConvGeometry.of_layer(place) != geometry
    ):
        raise LoadError(
            f"{checks.shorten(name)} has another stride, padding or dilation in the file"
        )


def _float_shape(layer: nn.Module) -> tuple[int, ...]:
    """The weight shape of the float layer or call."""
    return binary.float_layer(layer)[1] if isinstance(layer, BLOCKS) else _sizes(layer)[0]


def _float_kind(geometry: ConvGeometry | None) -> type[nn.Linear] | type[Convolution]:
    """The layer of torch that a layer of this geometry was made from."""
    if geometry is None:
        return nn.Linear
    if geometry.up is None:
        return nn.Conv1d if geometry.line else nn.Conv2d
    return nn.ConvTranspose1d if geometry.line else nn.ConvTranspose2d


def _sizes(layer: Any) -> tuple[tuple[int, ...], ConvGeometry | None]:
    if isinstance(layer, SplitLinear):
        parts = [_sizes(part)[0] for part in layer.parts]
        return (sum(rows for rows, _ in parts), parts[0][1]), None
    shape = layer.weight_shape if hasattr(layer, "weight_shape") else layer.weight.shape
    return tuple(shape), getattr(layer, "geometry", None)


def _check_tensor(net: nn.Module, name: str, stored: Stored) -> None:
    owner, _, leaf = name.rpartition(".")
    module = _module(net, owner, "a tensor of")
    table = module._buffers if stored.buffer else module._parameters
    if leaf not in table:
        kind = "buffer" if stored.buffer else "parameter"
        raise LoadError(f"the file has the {kind} {checks.shorten(name)}, the model does not")
    old = table[leaf]
    if old is not None and stored.tensor is not None and _real(old) != _real(stored.tensor):
        raise LoadError(
            f"{checks.shorten(name)} is {old.dtype} in the model and {stored.tensor.dtype} in the "
            "file"
        )
    if old is not None and tuple(old.shape) != stored.shape:
        raise LoadError(
            f"{checks.shorten(name)} is {tuple(old.shape)} in the model and {stored.shape} in the "
            "file"
        )


def _real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
