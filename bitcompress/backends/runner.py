"""An exported file as a model that takes and gives torch tensors, pictures of any size too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bitcompress.backends.guards import first_broken, read_conditions
from bitcompress.backends.session import ort_session
from bitcompress.errors import LoadError, ShapeError

OVERLAP = 4
"""A tile of a file of one size shares a fourth of its side with its neighbour."""
LEAST = 32
"""Pictures with a smaller side are continued to this one where the file does not take them."""
APART = (1009, 1013, 1019, 1021, 1031, 1033, 1039, 1049)
"""Sizes on which the conditions of a file are tried when it is opened: no two are equal."""


@dataclass(frozen=True)
class Told:
    """What a file tells of itself.

    step: sides must be multiples of it; 0 where every size is fixed. size: the fixed height and
    width, or 0 and 0. task: what the model is for, where that is known.
    """

    scale: int | None
    image_range: float
    step: int
    size: tuple[int, int] = (0, 0)
    task: str | None = None
    holds: tuple[str, ...] = ()
    """Conditions of sizes (guards.py) without which the file is not the model."""

    @property
    def side(self) -> int:
        """The side of the largest square that a file of one size takes; 0 where sizes are free."""
        return min(self.size)


class FileModel(nn.Module):
    """A session as a model. Shapes: pictures (N, C, H, W) of any size if `told.scale` is known.

    threads, spin: as of `ort_session`.
    """

    def __init__(self, path: Path, *, threads: int | None = None, spin: bool = True) -> None:
        super().__init__()
        self.session = ort_session(path, threads=threads, spin=spin)
        self.told = _told(self.session, path)
        self.names = [value.name for value in self.session.get_inputs()]

    def forward(self, *given: Tensor, **named: Tensor) -> Tensor:
        """The first output. Raises: ShapeError for inputs that the file does not take."""
        rest = self.names[len(given) :]
        if len(given) + len(named) != len(self.names) or set(rest) != set(named):
            raise ShapeError(f"the file takes {', '.join(self.names)}: {len(self.names)} inputs")
        inputs = (*given, *(named[name] for name in rest))
        x = inputs[0]
        if self.told.scale is None or x.dim() != 4:
            return self._run(inputs)
        height, width = x.shape[-2:]
        first = self._whole(x)
        try:
            made = self._run((first, *inputs[1:]))
        except ShapeError:
            # A border of a network may be wider than a tiny picture, which its edge continues.
            if first is not x or min(height, width) >= LEAST or 0 in x.shape:
                raise
            first = self._whole(_continued(x, max(height, LEAST), max(width, LEAST)))
            made = self._run((first, *inputs[1:]))
        if first.shape != x.shape:
            made = made[..., : height * self.told.scale, : width * self.told.scale]
        return made

    def _run(self, inputs: Sequence[Tensor]) -> Tensor:
        """The first output for what the file takes as it is. Raises: ShapeError."""
        shapes = {n: tuple(x.shape) for n, x in zip(self.names, inputs, strict=True)}
        if broken := first_broken(self.told.holds, shapes):
            raise ShapeError(
                f"the file does not take {tuple(inputs[0].shape)}: it was written for sizes where "
                f"{broken}, and the model goes another way for others; export it with an example "
                "of such a size"
            )
        feed = {name: value.numpy() for name, value in zip(self.names, inputs, strict=True)}
        try:
            return torch.from_numpy(self.session.run(None, feed)[0])
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            raise ShapeError(
                f"the file does not take {tuple(inputs[0].shape)} {inputs[0].dtype}: {said}"
            ) from error

    def _whole(self, x: Tensor) -> Tensor:
        """The picture continued by its edge to a size that the file takes."""
        step, fixed = self.told.step, self.told.size
        if step == 1:
            return x
        more = [
            side - size if self.told.side else -size % max(step, 1)
            for side, size in zip(fixed, x.shape[-2:], strict=True)
        ]
        if min(more) < 0:
            raise ShapeError(
                f"the file takes pictures up to {fixed[1]}x{fixed[0]}, not {tuple(x.shape)}"
            )
        height, width = (size + by for size, by in zip(x.shape[-2:], more, strict=True))
        return _continued(x, height, width) if any(more) else x


def _continued(x: Tensor, height: int, width: int) -> Tensor:
    """A picture continued by its edge to a height and width."""
    return functional.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), "replicate")


def _told(session: Any, path: Path) -> Told:
    try:
        told = json.loads(session.get_modelmeta().custom_metadata_map["bitcompress"])
        scale, image_range = told["scale"], float(told["image_range"] or 1.0)
        shape = session.get_inputs()[0].shape
        free = told["step"] or len(shape) != 4
        size = (0, 0) if free else (int(shape[2]), int(shape[3]))
        shapes = {v.name: APART[: len(v.shape)] for v in session.get_inputs()}
        holds = read_conditions(told.get("holds", []), shapes)
        return Told(scale, image_range, int(told["step"]), size, told.get("task"), holds)
    except (KeyError, ValueError, TypeError) as error:
        raise LoadError(
            f"{path} does not say what it takes: export it with this release"
        ) from error
