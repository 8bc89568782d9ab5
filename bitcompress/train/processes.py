"""One run on many processes: gradients are averaged, statistics are those of the first process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import Unavailable

RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Where launchers say which process this is; accelerate reads the same."""
ALONE = (
    "accelerate started one process: on CPUs its launcher leaves more to MPI. For N of them run "
    "torchrun --nproc-per-node N -m bitcompress ..."
)


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """Which of several training processes this is; 0 for the first or only one."""
    return next((int(environment[name]) for name in RANKS if name in environment), 0)


def said_alone(environment: Mapping[str, str] = os.environ) -> str:
    """What to tell whoever asked accelerate for several processes and got one; else empty.

    Its launcher sets the address at which they would meet, and then starts one, as nobody.
    """
    asked = environment.get("ACCELERATE_USE_CPU", "").lower() == "true"
    nobody = not any(name in environment for name in (*RANKS, "WORLD_SIZE"))
    return ALONE if asked and nobody and "MASTER_ADDR" in environment else ""


def accelerator_for(device: str) -> Any:
    """Accelerate's view of the processes. Raises: Unavailable where it is not installed."""
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


def averaged(
    accelerator: Any, params: Sequence[nn.Parameter], total: Tensor, stop: bool
) -> tuple[Tensor, bool]:
    """Mean of gradients and losses over all processes, and whether any was asked to stop."""
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    flat = accelerator.reduce(flat, "mean")
    both = torch.stack([total, torch.tensor(float(stop), dtype=total.dtype)]).to(flat.device)
    total, asked = accelerator.reduce(both, "mean").cpu()
    for p, grad in zip(params, flat.split([p.numel() for p in params]), strict=True):
        p.grad = grad.view_as(p).to(p.dtype, copy=True)
    return total, bool(asked)


@torch.no_grad()
def shared(buffers: Sequence[Tensor]) -> None:
    """Give every process the buffers of the first: statistics are of one share of the batch.

    Averaging them instead would round what never changes.
    """
    from accelerate.utils import broadcast

    for dtype in dict.fromkeys(b.dtype for b in buffers):  # in one order everywhere
        same = [b for b in buffers if b.dtype == dtype]
        flat = torch.cat([b.reshape(-1) for b in same])
        flat = broadcast(flat.byte() if dtype == torch.bool else flat)
        for buffer, value in zip(same, flat.split([b.numel() for b in same]), strict=True):
            buffer.copy_(value.view_as(buffer))
