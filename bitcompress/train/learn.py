"""Any student learns from any loss: what binary blocks are trained with, from scratch or a teacher.

The loss closes over student, teacher and labels; `fit` does the steps, this file the switches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bitcompress.layers.binary import BinaryBlock
from bitcompress.train.config import BatchSource, FitConfig, FitResult, Progress
from bitcompress.train.groups import groups_of
from bitcompress.train.log import tensorboard
from bitcompress.train.loop import fit
from bitcompress.train.modes import frozen
from bitcompress.train.place import own_device, placed, sent
from bitcompress.train.stages import Stage

SLOWER = "lower the learning rate (train.lr); the last checkpoint is kept"


@dataclass(frozen=True)
class LearnConfig:
    """How a whole student is trained."""

    fit: FitConfig
    lr: float = 1e-3
    weight_decay: float = 0.0
    rates: tuple[tuple[str, float], ...] = ()
    """(pattern of parameter names, factor on the learning rate), the first that fits; 0 freezes."""
    channels_last: bool = False
    """Pictures in that layout: convolutions of few channels train about 1.3 times as fast."""
    curves: Path | None = None
    """A folder for TensorBoard's event files."""


def learn(
    student: nn.Module,
    loss: Callable[[Any], Tensor],
    batches: BatchSource,
    config: LearnConfig,
    *,
    device: str = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    stages: Sequence[Stage] = (),
    beside: Sequence[nn.Module] = (),
) -> FitResult:
    """Train every parameter of the student that needs gradients; it ends in eval mode, on the CPU.

    loss(inputs) is the mean loss of one micro-batch, the student in training mode. `beside` are
    models that the loss also runs (a teacher): they are in eval mode, frozen and on the device
    meanwhile.
    Raises: as `fit`.
    """
    groups = groups_of(student, config.lr, config.weight_decay, config.rates)
    place = own_device(device)
    parts = [(s.at, s.restart, s.weight_decay, s.name) for s in stages]
    own = f"{config.lr}|{config.weight_decay}|{config.rates}|{config.channels_last}|{parts}"
    whole = replace(config.fit, fingerprint=f"{config.fit.fingerprint}|{own}")
    with frozen(beside), placed([student, *beside], place), tensorboard(config.curves) as log:
        student.train()

        def before(share: float) -> None:
            for module in student.modules():
                if isinstance(module, BinaryBlock):
                    module.progress(share)

        try:
            return fit(
                groups, sent(batches, place, channels_last=config.channels_last), loss, whole,
                device=device, folder=folder, resume=resume, progress=progress, stages=stages,
                before=before, log=log, remedy=SLOWER,
                buffers=[b for b in student.buffers() if not b.is_meta],
            )  # fmt: skip
        finally:
            student.eval()
