"""One plain training loop on Accelerate: Adam, a schedule that is a function of the step, resume.

A batch is a pure function of the step, and so is the learning rate; a checkpoint holds parameters
and optimizer state alone. So a run that was stopped and resumed ends bit for bit where an unbroken
run ends, on the same machine and number of threads. On many processes each takes its share of every
batch and gradients are averaged, so the result is that of one process up to summation order.
"""

from __future__ import annotations

import hashlib
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import GateError, Interrupted, LoadError, OutputError, Unavailable

Progress = Callable[[str, int, int], None]

BatchSource = Callable[[int, int, int], Sequence[tuple[float, Any]]]
"""(step, process, processes) -> its micro-batches; all weights sum to `processes`."""


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate."""

    params: tuple[nn.Parameter, ...]
    lr: float


@dataclass(frozen=True)
class FitConfig:
    """How long and how fast."""

    steps: int
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "cosine"
    warmup: int = 0
    save_every: int = 100
    fingerprint: str = ""
    """What the run is of; a checkpoint of another run is refused."""


@dataclass
class FitResult:
    """What training did."""

    losses: list[float] = field(default_factory=list)
    started_at: int = 0
    processes: int = 1


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
) -> FitResult:
    """Move the parameters of `groups` down the loss.

    loss(inputs) is the mean loss of one micro-batch.
    Raises: GateError if the loss stops being a number (the last checkpoint stays); Interrupted
    after Ctrl-C, with the state saved; LoadError if the checkpoint is of another run.
    """
    accelerator = _accelerator(device)
    params = [p for group in groups for p in group.params]
    optimizer = torch.optim.Adam(
        [{"params": list(g.params), "lr": g.lr} for g in groups], betas=config.betas, fused=True
    )
    checkpoint = None if folder is None else folder / "train.ckpt"
    result = FitResult(processes=accelerator.num_processes)
    if checkpoint is not None and resume and checkpoint.exists():
        result = _restore(checkpoint, params, optimizer, config, result)
    with _stoppable() as stop:
        for step in range(result.started_at, config.steps):
            for group, wanted in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = wanted.lr * rate(step, config)
            share = batch(step, accelerator.process_index, accelerator.num_processes)
            value = _step(accelerator, params, share, loss)
            if not math.isfinite(value):
                raise GateError(
                    f"loss is {value} at step {step + 1} of {config.steps}; lower the learning "
                    "rates (train.lr_bounds, train.lr_weights); the last checkpoint is kept"
                )
            optimizer.step()
            result.losses.append(value)
            if progress is not None and accelerator.is_main_process:
                progress(f"train (loss {value:.5f})", step + 1, config.steps)
            due = (step + 1) % config.save_every == 0 or step + 1 == config.steps
            if checkpoint is not None and accelerator.is_main_process and (due or stop.asked):
                _save(checkpoint, params, optimizer, config, step + 1, result.losses)
            if stop.asked:
                kept = "the state is kept: run the same command with --resume to go on"
                raise Interrupted(
                    f"interrupted after step {step + 1} of {config.steps}; "
                    + (kept if checkpoint is not None else "nothing was kept")
                )
    return result


class _Stop:
    """Whether Ctrl-C was pressed: the step under way is finished first, so the state is whole."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    """Take SIGINT as a wish to stop after the step; a second one stops at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = signal.signal(signal.SIGINT, stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, old)


def rate(step: int, config: FitConfig) -> float:
    """The factor on the learning rate at a step: warm-up, then cosine to 0 or constant."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * step / config.steps))


def _step(
    accelerator: Any,
    params: Sequence[nn.Parameter],
    share: Sequence[tuple[float, Any]],
    loss: Callable[[Any], Tensor],
) -> float:
    """Gradients of one batch, in micro-batches, averaged over processes; gives the loss."""
    for p in params:
        p.grad = None
    total = torch.zeros((), dtype=torch.float64)
    for weight, part in share:
        value = loss(part) * weight
        accelerator.backward(value)
        total += float(value.detach())
    if accelerator.num_processes > 1:
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        flat = accelerator.reduce(flat, "mean")
        total = accelerator.reduce(total.to(flat.device), "mean")
        for p, grad in zip(params, flat.split([p.numel() for p in params]), strict=True):
            p.grad = grad.view_as(p).clone()
    return float(total)


def _accelerator(device: str) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise Unavailable(
            "training needs Accelerate, which is not installed: pip install 'bitcompress[train]', "
            "or --set train.method=none"
        ) from error
    return Accelerator(cpu=device == "cpu")


def part_processes() -> None:
    """End the group of training processes, if there is one: to be called before a process exits.

    A process that exits while the other still talks to it makes the other abort.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _save(
    path: Path,
    params: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    config: FitConfig,
    done: int,
    losses: list[float],
) -> None:
    """Write the state atomically: a kill leaves the old state or the new one, never a part."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    state = {
        "fingerprint": _digest(config),
        "step": done,
        "params": [p.detach() for p in params],
        "optimizer": optimizer.state_dict(),
        "losses": losses,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of a full disk
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
            path.parent.rmdir()  # only where it is empty
        raise OutputError(
            f"the checkpoint {path} cannot be written: free some space or name another output"
        ) from error


def _restore(
    path: Path,
    params: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    config: FitConfig,
    result: FitResult,
) -> FitResult:
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:
        raise LoadError(
            f"{path} is damaged, or not a checkpoint of ours; delete it to start over"
        ) from error
    if not isinstance(state, dict) or state.get("fingerprint") != _digest(config):
        raise LoadError(
            f"{path} belongs to a run with another model, recipe, data or seed; "
            "give the same arguments, or drop --resume to start over"
        )
    with torch.no_grad():
        for p, saved in zip(params, state["params"], strict=True):
            p.copy_(saved)
    optimizer.load_state_dict(state["optimizer"])
    result.started_at, result.losses = int(state["step"]), list(state["losses"])
    return result


def _digest(config: FitConfig) -> str:
    text = f"{config.fingerprint}|{config.steps}|{config.betas}|{config.schedule}|{config.warmup}"
    return hashlib.sha256(text.encode()).hexdigest()
