"""What a run is: how long, how fast, in which precision, and what it gives back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from bitcompress.errors import RecipeError

Progress = Callable[[str, int, int], None]

BatchSource = Callable[[int, int, int], Sequence[tuple[float, Any]]]
"""(step, process, processes) -> its micro-batches; all weights sum to `processes`."""

PRECISIONS = ("fp32", "bf16")


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
    optimizer: str = "adam"
    momentum: float = 0.9
    """Of `sgd`, with Nesterov's look ahead."""
    epoch: int = 1
    """Steps during which the learning rate stands still."""
    clip: float = 0.0
    """The largest norm of all gradients together; 0 leaves them alone."""
    precision: str = "fp32"
    """`bf16`: products of the forward run in bfloat16 where torch's autocast finds that safe."""
    average: float = 0.0
    """The decay of the moving average that the model ends with; 0 ends with the last weights."""
    seed: int = 0
    """Each step draws its random numbers (dropout) from the seed, the step and the process."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise RecipeError(
                f"precision {self.precision!r} is unknown: it is one of {', '.join(PRECISIONS)}"
            )
        if not 0 <= self.average < 1:
            raise RecipeError(f"the decay of the average is {self.average}: give 0 or up to 0.9999")
        if self.clip < 0 or self.epoch < 1 or self.steps < 0:
            raise RecipeError("steps and clip are 0 or more and an epoch has at least one step")

    @property
    def digest(self) -> str:
        """What a checkpoint is compared by: the fingerprint and every value that moves a weight."""
        text = (
            f"{self.fingerprint}|{self.steps}|{self.betas}|{self.schedule}|{self.warmup}"
            # A value that is as ever is left out, so that checkpoints of before stay readable.
            + "".join(
                f"|{f.name}={getattr(self, f.name)}"
                for f in fields(self)[6:]
                if getattr(self, f.name) != f.default
            )
        )
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class FitResult:
    """What training did."""

    losses: list[float] = field(default_factory=list)
    started_at: int = 0
    processes: int = 1
