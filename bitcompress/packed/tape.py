"""Who records the run of this thread, if anybody: packed operators tell it that they are one step.

A recorder (program/record.py) sees every operator of torch by itself; what happens inside a packed
layer or a fused attention is native and would be seen in pieces, or not at all. So those ask here
first, and hand themselves over whole.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor


class Recorder(Protocol):
    """What takes down the steps of a run."""

    def step(
        self, kind: str, target: Any, inputs: Sequence[Tensor], compute: Callable[[], Tensor]
    ) -> Tensor:
        """Run `compute` out of sight and note it as one step of that kind on those inputs."""


_here = threading.local()


def recorder() -> Recorder | None:
    """The recorder of this thread; None where nobody records."""
    return getattr(_here, "recorder", None)


def set_recorder(new: Recorder | None) -> Recorder | None:
    """Make `new` the recorder of this thread. Returns: the one before."""
    before = recorder()
    _here.recorder = new
    return before


def noted(kind: str, target: Any, x: Tensor, compute: Callable[[], Tensor]) -> Tensor:
    """What `compute` makes of x, as one step where somebody records."""
    found = recorder()
    return compute() if found is None else found.step(kind, target, (x,), compute)
