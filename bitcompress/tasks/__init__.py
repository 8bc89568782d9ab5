"""What models are trained for and measured by: data, batches, loss and figures of each task.

`TASKS` has a function for each that makes the task of what the user gave; `task_of` chooses.
"""

from __future__ import annotations

from collections.abc import Callable

from bitcompress.tasks.base import Batch, Request, Task
from bitcompress.tasks.choose import chosen
from bitcompress.tasks.classify import Classify, open_classify
from bitcompress.tasks.depth import Depth, open_depth
from bitcompress.tasks.diffusion import Diffusion, open_diffusion
from bitcompress.tasks.segment import Segment, open_segment
from bitcompress.tasks.sr import SuperResolution, open_sr

TASKS: dict[str, Callable[[Request], Task]] = {
    "classify": open_classify,
    "depth": open_depth,
    "segment": open_segment,
    "sr": open_sr,
    "diffusion": open_diffusion,
}


def task_of(request: Request, name: str | None = None) -> Task:
    """The task called `name`, or the one that model and data are of.

    Raises: UsageError for an unknown name or unknown options; DataError where nothing tells the
        task, or the data does not fit it.
    """
    return chosen(TASKS, request, name)


__all__ = [
    "TASKS",
    "Batch",
    "Classify",
    "Depth",
    "Diffusion",
    "Request",
    "Segment",
    "SuperResolution",
    "Task",
    "task_of",
]
