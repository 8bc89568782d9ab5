"""A model of your own becomes binary, with data and a loss of your own, through the Python API.

First without labels: the student imitates the float model. Then with a task of your own, which is a
class with batches, a loss and a figure of merit.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import bitcompress
from bitcompress.tasks import Task

SIDE = 24


class Denoiser(nn.Module):
    """Convolutions with a residual around them; no registry knows it."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        self.leave = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x (N, 1, H, W). Returns: the same."""
        y = self.enter(x)
        for conv in self.body:
            y = y + conv(y).relu()
        result: Tensor = x + self.leave(y)
        return result


def picture(seed: int) -> Tensor:
    """Smooth shapes, (8, 1, SIDE, SIDE) in [0, 1]."""
    rough = torch.rand(8, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(rough, size=SIDE, mode="bilinear")


def noisy(clean: Tensor, seed: int) -> Tensor:
    """The same with noise of 0.1."""
    return clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Denoise(Task):
    """Noise is to be removed: mean squared error to the clean picture, and to the teacher."""

    name = "denoise"
    metric = "psnr"
    higher_is_better = True

    fingerprint: str = "shapes"

    def example(self, model: nn.Module) -> tuple[Tensor]:
        """One batch."""
        return (noisy(picture(0), 0),)

    def batches(self, batch: int, seed: int, micro: int | None = None) -> Any:
        """Shapes that are drawn from the step, so that a resumed run sees the same ones."""

        def source(step: int, process: int, processes: int) -> list[tuple[float, Any]]:
            clean = picture(1000 + seed + step * processes + process)
            return [(1.0, {"clean": clean, "noisy": noisy(clean, step)})]

        return source

    def loss(self, student: nn.Module, batch: Any, teacher: nn.Module | None = None) -> Tensor:
        """To the clean picture, and half as much to what the teacher makes of it."""
        made = student(batch["noisy"])
        loss = functional.mse_loss(made, batch["clean"])
        if teacher is not None:
            with torch.no_grad():
                goal = teacher(batch["noisy"])
            loss = loss + 0.5 * functional.mse_loss(made, goal)
        return loss

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """PSNR on a batch that is never trained on."""
        clean = picture(0)
        with torch.no_grad():
            error = functional.mse_loss(model(noisy(clean, 0)), clean)
        return {"psnr": float(-10 * error.log10())}

    def size(self) -> int:
        """Pictures that are drawn before any comes again: as many as there are seeds."""
        return 1 << 30


def train_float(model: nn.Module, task: Task, steps: int) -> None:
    """A float model to begin with."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batches = task.batches(8, 0)
    for step in range(steps):
        optimizer.zero_grad()
        task.loss(model, batches(step, 0, 1)[0][1]).backward()
        optimizer.step()


def main() -> None:
    """From a float model to a folder and back."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="Two training steps.")
    parser.add_argument("--recipe", default="reactnet")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    steps = 2 if arguments.smoke else 400

    model, task = Denoiser().eval(), Denoise()
    train_float(model, task, steps)

    batches = [noisy(picture(number), number) for number in range(8)]
    imitated = bitcompress.binarize(
        model, recipe=arguments.recipe, data=batches, overrides={"train.steps": steps}
    )
    print("imitation, distance to float:", imitated.report["quality"]["packed"])

    result = bitcompress.binarize(
        model, recipe=arguments.recipe, data=task, overrides={"train.steps": steps}
    )
    with tempfile.TemporaryDirectory() as folder:
        bitcompress.save(result, Path(folder) / "packed")
        packed = bitcompress.load(Path(folder) / "packed", model=Denoiser()).model
    x = torch.rand(1, 1, 40, 32)
    with torch.no_grad():
        print("packed as saved and loaded again:", bool(torch.equal(packed(x), result.model(x))))
    for who, figures in result.report["quality"].items():
        print(f"{who}: {figures}")
    for row in result.report["layers"]:
        print(f"{row['name']:<8} {row['state']}: {row['became'] or row['reason']}")


if __name__ == "__main__":
    main()
