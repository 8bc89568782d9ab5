"""Running batches through a model whose grids are switched off, with hooks that look on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bitcompress.errors import BitcompressError, DataError
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.capture import as_inputs
from bitcompress.quant.uniform import UniformQuantizer


def quantizers(model: nn.Module) -> list[UniformQuantizer]:
    """Every quantizer of a model or layer."""
    return [module for module in model.modules() if isinstance(module, UniformQuantizer)]


def check_numbers(x: Tensor, name: str) -> None:
    """Raise DataError if what a layer meets holds NaN or infinite numbers."""
    if not bool(torch.isfinite(x).all()):
        raise DataError(
            f"{name} meets NaN or infinite numbers on the calibration data: look at the data, and "
            "at the layers before it"
        )


def check_weights(layers: Mapping[str, nn.Module]) -> None:
    """Raise DataError if a weight or bias of these layers holds NaN or infinite numbers."""
    for name, layer in layers.items():
        for leaf, parameter in layer.named_parameters():
            own = leaf.rpartition(".")[2] in ("weight", "bias")
            if own and not bool(torch.isfinite(parameter).all()):
                raise DataError(
                    f"the {leaf} of {name} holds NaN or infinite numbers: the model is broken, "
                    "take a sound checkpoint"
                )


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], number: int) -> None:
    """One batch through the model. Raises: DataError where the model does not take it."""
    try:
        model(*args, **kwargs)
    except (BitcompressError, MemoryError):
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_of((args, kwargs)))
        raise DataError(
            f"the model fails on batch {number} of the data ({shapes or 'no tensor'}): "
            f"{type(error).__name__}: {error}; give batches that it takes, like its example input"
        ) from error


@contextmanager
def grids(chosen: Iterable[UniformQuantizer], *, on: bool) -> Iterator[None]:
    """Have these quantizers on or off inside; each is afterwards as it was."""
    before = [(quantizer, quantizer.enabled) for quantizer in chosen]
    try:
        for quantizer, _ in before:
            quantizer.enabled = on
        yield
    finally:
        for quantizer, enabled in before:
            quantizer.enabled = enabled


def second_run(
    own: Sequence[UniformQuantizer], *, on: bool, then: Callable[[Tensor, Tensor], Tensor | None]
) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
    """A forward hook that runs its layer once more, with the grids `own` on or off.

    `then` gets the output and that of the second run, which has no gradients; what it returns takes
    the place of the output.
    """
    inside = False

    def hook(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor | None:
        nonlocal inside
        if inside:
            return None
        inside = True
        try:
            with torch.no_grad(), grids(own, on=on):
                other = layer(*args)
        finally:
            inside = False
        return then(out, other.detach())

    return hook


def run_watched(
    model: nn.Module,
    batches: Iterable[Any],
    hooks: Iterable[RemovableHandle],
    *,
    on: bool,
    after: Callable[[int], None] | None = None,
) -> int:
    """Run each batch with all grids on or off, and take the hooks off at the end.

    `after` hears the number of batches run so far. Returns: how many there were.
    Raises: DataError naming a batch that the model does not take.
    """
    handles, count = list(hooks), 0
    try:
        with grids(quantizers(model), on=on), torch.no_grad():
            for batch in batches:
                args, kwargs = as_inputs(batch)
                _run(model, args, kwargs, count + 1)
                count += 1
                if after is not None:
                    after(count)
    finally:
        for handle in handles:
            handle.remove()
    return count
