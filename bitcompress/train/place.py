"""Where training runs: models and batches go to a device, and the models come back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import Unavailable
from bitcompress.train.config import BatchSource


def check_device(device: str) -> None:
    """Raise Unavailable where torch does not know or does not see the device."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise Unavailable(f"--device {device!r} is no device: give cpu, cuda or cuda:N") from error
    if kind == "cpu":
        return
    if kind != "cuda" or not torch.cuda.is_available():
        raise Unavailable(
            f"--device {device!r}: torch {torch.__version__} sees no such device here; "
            "leave --device out to train on the CPU"
        )


def own_device(device: str) -> str:
    """The device of this process: of many, each has a GPU of its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


@contextmanager
def placed(models: Sequence[nn.Module], device: str) -> Iterator[None]:
    """Hold all numbers of the models on a device; afterwards they are on the CPU again.

    Parameters that were taken out of the model stay on the meta device. A tensor keeps its
    identity, so ties stay ties.
    """
    try:
        _move(models, device)
        yield
    finally:
        _move(models, "cpu")


def _move(models: Sequence[nn.Module], device: str) -> None:
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.device.type != "meta":
                tensor.data = tensor.data.to(device)


def sent(batch: BatchSource, device: str, *, channels_last: bool = False) -> BatchSource:
    """The same batches, their tensors on the device; channels_last: pictures in that layout."""

    def source(step: int, process: int, processes: int) -> list[tuple[float, Any]]:
        share = batch(step, process, processes)
        return [(weight, to(part, device, channels_last=channels_last)) for weight, part in share]

    return batch if device == "cpu" and not channels_last else source


def to(value: Any, device: str, *, channels_last: bool = False) -> Any:
    """Inputs with every tensor in them on the device."""
    if isinstance(value, Tensor):
        layout = torch.channels_last if channels_last and value.dim() == 4 else None
        return value.to(device) if layout is None else value.to(device, memory_format=layout)
    if isinstance(value, Mapping):
        return {key: to(part, device, channels_last=channels_last) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to(part, device, channels_last=channels_last) for part in value)
    return value
