"""Curves of a run for TensorBoard: an option, written beside the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bitcompress.errors import Unavailable

Log = Callable[[int, Mapping[str, float]], None]
"""(step, counted from 1; values by name)."""


@contextmanager
def tensorboard(folder: Path | None) -> Iterator[Log | None]:
    """A log that writes event files to a folder, or none.

    Raises: Unavailable where tensorboard is not installed.
    """
    if folder is None:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise Unavailable(
            "curves for TensorBoard need tensorboard, which is not installed: "
            "pip install 'bitcompress[curves]', or leave the option out"
        ) from error
    writer = SummaryWriter(str(folder))

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    try:
        yield log
    finally:
        writer.close()
