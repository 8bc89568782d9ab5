"""One plain training loop on Accelerate: an optimizer, a schedule, stages, resume.

A batch is a pure function of the step, and so are the learning rate and the random numbers that a
step draws; a checkpoint holds parameters, buffers, optimizer and average. So a run that was stopped
and resumed ends bit for bit where an unbroken run ends, on the same machine and number of threads.
On many processes each takes its share of every batch and gradients are averaged, so the result is
that of one process up to summation order, where no layer looks at its whole batch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitcompress.errors import GateError, Interrupted
from bitcompress.train.average import Average
from bitcompress.train.config import BatchSource, FitConfig, FitResult, Progress
from bitcompress.train.groups import Group
from bitcompress.train.interrupt import Stop, stoppable
from bitcompress.train.log import Log
from bitcompress.train.optimizers import optimizer_of
from bitcompress.train.processes import accelerator_for, averaged, shared
from bitcompress.train.schedule import rate
from bitcompress.train.stages import Stage, ordered, part_of
from bitcompress.train.state import State, read

SLOWER = "lower the learning rates (train.lr_bounds, train.lr_weights); the last checkpoint is kept"


def fit(
    groups: Sequence[Group],
    batch: BatchSource,
    loss: Callable[[Any], Tensor],
    config: FitConfig,
    *,
    device: str = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    buffers: Iterable[Tensor] = (),
    stages: Sequence[Stage] = (),
    before: Callable[[float], None] | None = None,
    log: Log | None = None,
    remedy: str = SLOWER,
) -> FitResult:
    """Move the parameters of `groups` down the loss.

    loss(inputs) is the mean loss of one micro-batch. `buffers` (statistics that a forward moves)
    are part of the state; `stages` switch the model at fractions of the run, and before(share) is
    told before each step which share of the run is over. With `config.average` the tensors end as
    their moving average.
    Raises: GateError if loss, gradients or weights stop being numbers (the last checkpoint stays);
    Interrupted after Ctrl-C, with the state saved; LoadError if the checkpoint is of another run.
    """
    optimizer = optimizer_of(groups, config)
    params, kept = [p for group in groups for p in group.params], list(buffers)
    average = Average([*params, *kept], config.average) if config.average else None
    state = State(params, kept, optimizer, average, config.digest)
    accelerator = accelerator_for(device)
    run = _Run(state, tuple(groups), ordered(stages), config, accelerator, loss, before, remedy)
    checkpoint = None if folder is None else folder / "train.ckpt"
    result = FitResult(processes=accelerator.num_processes)
    if checkpoint is not None and resume and checkpoint.exists():
        saved = read(checkpoint, config.digest)
        result.started_at, result.losses = int(saved["step"]), list(saved["losses"])
        run.begin_all_before(result.started_at)
        state.restore(checkpoint, saved)
    main = accelerator.is_main_process
    with stoppable() as stop, torch.random.fork_rng(_cards(device)):
        for step in range(result.started_at, config.steps):
            value, norm = run.step(step, batch, stop)
            result.losses.append(value)
            if progress is not None and main:
                progress(f"train (loss {value:.5f})", step + 1, config.steps)
            if log is not None and main:
                log(step + 1, {"loss": value, "gradient": norm, "rate": run.rate(step)})
            due = (step + 1) % config.save_every == 0 or step + 1 == config.steps
            if checkpoint is not None and (due or stop.asked):
                if state.broken():
                    raise run.no_number("a weight", math.nan, step)
                if main:
                    state.save(checkpoint, step + 1, result.losses)
                accelerator.wait_for_everyone()  # nobody goes on to read an older one
            if stop.asked:
                raise _interrupted(step, config.steps, checkpoint is not None)
    if average is not None:
        average.load()
    return result


@dataclass(frozen=True)
class _Run:
    """One run's parts, and what a step does with them."""

    state: State
    groups: tuple[Group, ...]
    stages: tuple[Stage, ...]
    config: FitConfig
    accelerator: Any
    loss: Callable[[Any], Tensor]
    before: Callable[[float], None] | None
    remedy: str

    def rate(self, step: int) -> float:
        """The factor on all learning rates."""
        return rate(step, self.config, *part_of(step, self.config.steps, self.stages))

    def begin_all_before(self, step: int) -> None:
        """Bring the model into the stage of a run that was resumed before a step."""
        for stage in self.stages:
            if stage.step(self.config.steps) < step:
                stage.act()

    def step(self, step: int, batch: BatchSource, stop: Stop) -> tuple[float, float]:
        """Take one step; gives the loss and the norm of the gradients (0 where nobody asked)."""
        optimizer, params, average = self.state.optimizer, self.state.params, self.state.average
        for stage in self.stages:
            if stage.step(self.config.steps) == step:
                stage.act()
                if stage.restart:
                    optimizer.state.clear()
                    if average is not None:
                        average.restart()
        if self.before is not None:
            self.before(step / self.config.steps)
        factor, decay = self.rate(step), self._decay(step)
        for group, wanted in zip(optimizer.param_groups, self.groups, strict=True):
            group["lr"] = wanted.lr * factor
            if decay is not None and wanted.weight_decay:
                group["weight_decay"] = decay
        value = self._gradients(step, batch, stop)
        if not math.isfinite(value):
            raise self.no_number("loss", value, step)
        norm = 0.0
        if self.config.clip:
            norm = float(torch.nn.utils.clip_grad_norm_(params, self.config.clip))
            if not math.isfinite(norm):
                raise self.no_number("the norm of the gradients", norm, step)
        optimizer.step()
        if self.accelerator.num_processes > 1 and self.state.buffers:
            shared(self.state.buffers)
        if average is not None:
            average.update(step - part_of(step, self.config.steps, self.stages)[0])
        return value, norm

    def _decay(self, step: int) -> float | None:
        begun = [s for s in self.stages if s.step(self.config.steps) <= step]
        decays = [s.weight_decay for s in begun if s.weight_decay is not None]
        return decays[-1] if decays else None

    def _gradients(self, step: int, batch: BatchSource, stop: Stop) -> float:
        """Gradients of one batch, in micro-batches, averaged over processes; gives the loss."""
        params, accelerator = self.state.params, self.accelerator
        for p in params:
            p.grad = None
        total = torch.zeros((), dtype=torch.float64)
        process = accelerator.process_index
        share = batch(step, process, accelerator.num_processes)
        _seed(f"{self.config.seed}|{step}|{process}")
        kind, low = accelerator.device.type, self.config.precision == "bf16"
        for weight, part in share:
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=low):
                value = self.loss(part)
            value = value.float() * weight if low else value * weight
            accelerator.backward(value)
            total += float(value.detach())
        if accelerator.num_processes > 1:
            total, stop.asked = averaged(accelerator, params, total, stop.asked)
        return float(total)

    def no_number(self, what: str, value: float, step: int) -> GateError:
        """Why the run cannot go on."""
        return GateError(
            f"{what} is {value} at step {step + 1} of {self.config.steps}; {self.remedy}"
        )


def _seed(words: str) -> None:
    """Random numbers as a function of the step: nothing of them has to be kept for a resume."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(words.encode()).digest()[:7], "little"))


def _cards(device: str) -> list[int]:
    """The devices whose random numbers are given back as they were; the CPU's always are."""
    return [] if device == "cpu" else [torch.cuda.current_device()]


def _interrupted(step: int, steps: int, kept: bool) -> Interrupted:
    how = "the state is kept: run the same command with --resume to go on"
    return Interrupted(
        f"interrupted after step {step + 1} of {steps}; " + (how if kept else "nothing was kept")
    )
