"""Progress on stderr: a bar on a terminal, plain lines elsewhere.

stdout is left alone, so that --json stays clean. Every line names the stage, how far it is, and
after the first steps how long it will take.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

EVERY_SECONDS = 2.0


class ProgressLine:
    """A callback (what, done, total) that prints; close it when all is done."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._bars = _Bars(self.stream) if self.stream.isatty() else None
        self._stage, self._started, self._printed = "", 0.0, 0.0
        self._first = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say how far a stage is; total 0 means that nobody knows, and done 0 that it begins.

        What stands in brackets after the name of the stage may change from step to step.
        """
        stage = what.split(" (")[0]
        if self._bars is not None:
            self._bars.show(stage, what, done, total)
            return
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._printed, self._first = stage, now, 0.0, done
        if now - self._printed < EVERY_SECONDS and done != total:
            return
        self._printed = now
        text = what + (f" {done}" if done or total else "") + (f" of {total}" if total else "")
        steps = done - self._first
        if total and steps > 0 and done < total:
            text += f", {clock((now - self._started) / steps * (total - done))} left"
        self._write(f"{text}\n")

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bars is not None:
            self._bars.close()

    def _write(self, text: str) -> None:
        # Whoever reads stderr may go away; the work goes on.
        with contextlib.suppress(BrokenPipeError):
            self.stream.write(text)
            self.stream.flush()


class _Bars:
    """One bar a stage, the running one last."""

    def __init__(self, stream: TextIO) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(), console=Console(file=stream), refresh_per_second=4,
        )  # fmt: skip
        self._stage, self._task, self._open = "", TaskID(0), False

    def show(self, stage: str, what: str, done: int, total: int) -> None:
        """Move the bar of a stage; a new stage gets a new bar."""
        if not self._open:
            self._progress.start()
            self._open = True
            atexit.register(self.close)
        count = f"{done} of {total}" if total else str(done or "")
        known = total or None
        if stage != self._stage:
            self._stage = stage
            self._task = self._progress.add_task(what, total=known, count=count)
        self._progress.update(
            self._task, description=what, completed=done, total=known, count=count
        )

    def close(self) -> None:
        """Stop drawing; the bars stay in view."""
        if self._open:
            self._open = False
            atexit.unregister(self.close)
            self._progress.stop()


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
