"""The task of inputs without labels: the student's output shall be that of the float model.

For models and data of your own, of any kind of input; whoever has labels writes a Task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import DataError, UsageError
from bitcompress.graph.arguments import tensors_of
from bitcompress.graph.capture import as_inputs
from bitcompress.tasks.base import Task, evaluating
from bitcompress.train import BatchSource

MOST = 4096
"""Batches that are kept of a stream."""


@dataclass(frozen=True)
class Imitate(Task):
    """Batches of inputs, in turn, and the distance of outputs over the size of the float one's.

    A batch is what `quantize` takes: a tensor, a tuple of arguments or a dict of keywords. Of four
    or more batches the last one is not trained on, but measured.
    """

    name = "imitate"
    metric = "apart"
    higher_is_better = False

    train: tuple[Any, ...]
    held: tuple[Any, ...]
    goal: nn.Module
    fingerprint: str = ""

    @classmethod
    def of(cls, batches: Iterable[Any], goal: nn.Module) -> Imitate:
        """The task of imitating `goal` on batches. Raises: DataError where there is none."""
        kept = tuple(islice(batches, MOST))
        if not kept:
            raise DataError("data holds no batch: give at least one input of the model")
        digest = hashlib.sha256()
        for batch in kept:
            for tensor in tensors_of(as_inputs(batch)):
                digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        split = len(kept) - 1 if len(kept) > 3 else len(kept)
        return cls(kept[:split], kept[split:] or kept, goal, digest.hexdigest())

    def example(self, model: nn.Module) -> tuple[Any, ...]:
        """The first batch, as arguments and keywords."""
        return as_inputs(self.train[0])

    def batches(self, batch: int, seed: int, micro: int | None = None) -> BatchSource:
        """One of the given batches a step and process; `batch` is what they were made with."""

        def source(step: int, process: int, processes: int) -> list[tuple[float, Any]]:
            place = (step * processes + process) % len(self.train)
            return [(1.0, {"inputs": self.train[place]})]

        return source

    def loss(
        self, student: nn.Module, batch: Mapping[str, Any], teacher: nn.Module | None = None
    ) -> Tensor:
        """The mean distance to the teacher over the mean size of its output.

        Raises: UsageError without a teacher.
        """
        if teacher is None:
            raise UsageError(
                "data without labels is learnt from the float model: leave out --from-scratch and "
                "train.distill.share=0, or give a Task with a loss of its own"
            )
        args, kwargs = as_inputs(batch["inputs"])
        with evaluating(teacher):
            wanted = teacher(*args, **kwargs)
        return _apart(student(*args, **kwargs), wanted)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """apart: as the loss, on the batches that were held out."""
        found = []
        for batch in self.held:
            args, kwargs = as_inputs(batch)
            with evaluating(self.goal), evaluating(model):
                wanted = self.goal(*args, **kwargs)
                found.append(float(_apart(model(*args, **kwargs), wanted)))
        return {"apart": sum(found) / len(found)}

    def size(self) -> int:
        """Batches."""
        return len(self.train)


def _apart(out: Any, goal: Any) -> Tensor:
    """The mean over outputs of mean |out - wanted| / mean |wanted|."""
    made, wanted = tensors_of(_answered(out, goal)), tensors_of(goal)
    if len(made) != len(wanted):
        raise UsageError(
            f"the model gives {len(made)} tensors in training and {len(wanted)} in eval: give a "
            "Task that reads both, or a model that gives the same"
        )
    pairs = [(o, w) for o, w in zip(made, wanted, strict=True) if w.is_floating_point()]
    if not pairs:
        raise UsageError("the model gives no tensor of real numbers: there is nothing to imitate")
    parts = [(o - w).abs().mean() / w.abs().mean().clamp_min(1e-12) for o, w in pairs]
    return torch.stack(parts).mean()


def _answered(out: Any, goal: Any) -> Any:
    """Of what a model gives in training, what it gives in eval, too: without auxiliary heads.

    Those have keys of their own in a dict, and come last in a tuple.
    """
    if isinstance(out, Mapping) and isinstance(goal, Mapping):
        return {key: out[key] for key in goal if key in out}
    if not isinstance(out, tuple | list):
        return out
    count = len(goal) if isinstance(goal, tuple | list) else 1
    return out[:count]
