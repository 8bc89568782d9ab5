"""What a run is at a step, and its checkpoint: written as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitcompress.errors import LoadError, OutputError
from bitcompress.train.average import Average


@dataclass(frozen=True)
class State:
    """Everything that the next step depends on, beside the step itself."""

    params: Sequence[nn.Parameter]
    buffers: Sequence[Tensor]
    optimizer: torch.optim.Optimizer
    average: Average | None
    digest: str

    def broken(self) -> bool:
        """Whether a parameter is not finite or a buffer no number; masks may well be infinite."""
        finite = all(bool(torch.isfinite(p).all()) for p in self.params)
        return not finite or any(bool(torch.isnan(b).any()) for b in self.buffers)

    def save(self, path: Path, done: int, losses: list[float]) -> None:
        """Write it atomically: a kill leaves the old state or the new one, never a part."""
        temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        state = {
            "fingerprint": self.digest,
            "step": done,
            "params": [p.detach() for p in self.params],
            "buffers": [b.detach() for b in self.buffers],
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.values,
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

    @torch.no_grad()
    def restore(self, path: Path, saved: Mapping[str, Any]) -> None:
        """Become what was saved. Raises: LoadError if the tensors are not those of this run."""
        pairs = [
            (self.params, saved["params"]),
            (self.buffers, saved.get("buffers", [])),
            ([] if self.average is None else self.average.values, saved.get("average") or []),
        ]
        for ours, theirs in pairs:
            if [t.shape for t in ours] != [t.shape for t in theirs]:
                raise _another(path)
            for tensor, value in zip(ours, theirs, strict=True):
                tensor.copy_(value)
        self.optimizer.load_state_dict(saved["optimizer"])


def read(path: Path, digest: str) -> dict[str, Any]:
    """The checkpoint of a run. Raises: LoadError if it is damaged or of another run."""
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise LoadError(
            f"{path} is damaged, or not a checkpoint of ours; delete it to start over"
        ) from error
    if not isinstance(saved, dict) or saved.get("fingerprint") != digest:
        raise _another(path)
    return saved


def _another(path: Path) -> LoadError:
    return LoadError(
        f"{path} belongs to a run with another model, recipe, data or seed; "
        "give the same arguments, or drop --resume to start over"
    )
