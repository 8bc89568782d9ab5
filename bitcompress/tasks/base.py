"""What a task is: inputs, batches, a loss and a figure of merit, for any model that fits it.

Training, reports and tables know tasks through this class alone. A batch is a pure function of the
seed and the step and is shared among processes, so that a resumed run ends where an unbroken one
does; the loss of a batch is the mean over its samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitcompress.data.draws import Indices, share_of
from bitcompress.errors import ShapeError, UsageError
from bitcompress.train import BatchSource

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
SAMPLES = 3
"""How many held-out pictures are shown."""
Batch = Mapping[str, Tensor]
"""Tensors by name, the first axis of each being the sample."""


class Task(ABC):
    """One thing that a model is trained for and measured by."""

    name: ClassVar[str]
    metric: ClassVar[str]
    """The key of `evaluate` that ranks models."""
    higher_is_better: ClassVar[bool]
    fingerprint: str
    """What the data is: a checkpoint of a run on other data is refused."""

    @abstractmethod
    def example(self, model: nn.Module) -> tuple[Any, ...]:
        """Arguments for one run of the model, of the shapes that training has."""

    @abstractmethod
    def batches(self, batch: int, seed: int, micro: int | None = None) -> BatchSource:
        """The training batches of `batch` samples; `micro` bounds the samples of a part.

        Raises: UsageError for less than one sample.
        """

    @abstractmethod
    def loss(self, student: nn.Module, batch: Batch, teacher: nn.Module | None = None) -> Tensor:
        """The mean loss over a batch; with a teacher it is (partly) how far the two are apart."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The figures of the model on the held-out data; the model is run in eval mode."""

    @abstractmethod
    def size(self) -> int:
        """How many training samples there are: an epoch is as many draws."""

    def samples(self, model: nn.Module) -> list[tuple[str, Pixels]]:
        """What the model makes of the first held-out pictures, for a sheet; none by default.

        Returns: name and (H, W, 3) uint8 of each.
        """
        return []

    def config(self) -> dict[str, Any]:
        """What `tasks.apply` needs to use a model without its data, as JSON can hold it."""
        return {}

    @property
    def description(self) -> str:
        """One line for reports."""
        return f"{self.name}, {self.size()} training samples"


@dataclass(frozen=True)
class Request:
    """What the user gave: `tasks.task_of` makes a task of it."""

    data: Path | None = None
    held: Path | None = None
    """Where to measure; a held-out part of `data` if there is none."""
    scale: int | None = None
    image_range: float = 1.0
    cache: Path | None = None
    """Folder for decoded pixels; the user's cache folder if there is none."""
    model: nn.Module | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the task: patch, size, distill, ..."""


def shared_out(batch: int, micro: int | None, make: Callable[[int, Indices], Batch]) -> BatchSource:
    """A batch source from `make(step, places)`, which builds the samples at places of a batch."""
    if batch < 1 or (micro is not None and micro < 1):
        raise UsageError(f"a batch of {batch} in parts of {micro} is empty: give 1 or more")

    def source(step: int, process: int, processes: int) -> list[tuple[float, Batch]]:
        places, weight = share_of(batch, process, processes)
        # Parts of even size: a part of one sample would upset batch norms.
        parts = np.array_split(places, -(-len(places) // (micro or len(places))))
        return [(weight * len(part) / len(places), make(step, part)) for part in parts]

    return source


def on_device(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The batch where the model's parameters are."""
    device = device_of(model)
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def device_of(model: nn.Module) -> torch.device:
    """Where the first parameter or buffer of a model is; the CPU for a model without any."""
    for tensor in chain(model.parameters(), model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode and without gradients; each module's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def taught(teacher: nn.Module, *inputs: Tensor) -> Tensor:
    """What the teacher says, in eval mode and without gradients."""
    with evaluating(teacher):
        return main_tensor(teacher(*inputs), "the teacher")


MAIN = ("out", "logits", "sample", "prediction", "pred")
"""Names, first to last, that models give their main output in a dict."""


def main_tensor(output: Any, who: str = "the model") -> Tensor:
    """The output that is learnt and scored: the only one, or the main one of several.

    Of a dict that is what it calls out, logits, sample, prediction or pred; of a tuple or list the
    first, behind which auxiliary heads and features stand.
    Raises: ShapeError where there is none such.
    """
    tensor = named_output(output)[1]
    if tensor is None:
        holds = f" of {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise ShapeError(
            f"{who} gave a {type(output).__name__}{holds}, in which none is the main output: wrap "
            f"the model so that it returns one tensor, or a dict that calls it {MAIN[0]!r}"
        )
    return tensor


def named_output(output: Any) -> tuple[str, Tensor | None]:
    """The place of the main output among several, empty for an only one, and what stands there."""
    if isinstance(output, Tensor):
        return "", output
    if isinstance(output, Mapping):
        real = [key for key, value in output.items() if isinstance(value, Tensor)]
        wanted = [key for key in MAIN if key in real] or (real if len(real) == 1 else [])
        return (str(wanted[0]), output[wanted[0]]) if wanted else ("", None)
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return "" if len(output) == 1 else "0", output[0]
    return "", None
