"""One picture through a model of any task: names of classes, or a picture of what it says.

What a task needs to know of its data is its `config`, which a report keeps; the data itself is not
asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bitcompress.data.labelled import fitted
from bitcompress.data.resize import imresize
from bitcompress.errors import DataError, UsageError
from bitcompress.tasks.base import Pixels, device_of, evaluating, main_tensor
from bitcompress.tasks.dense import checked, planes
from bitcompress.tasks.sample import enlarged, sampler_from
from bitcompress.tiles import run_picture

TOP = 5


@dataclass(frozen=True)
class Applied:
    """What a model says of a picture: one of the two."""

    classes: tuple[tuple[str, float], ...] = ()
    """The most likely classes and their probabilities."""
    picture: Pixels | None = None


def apply(name: str, config: Mapping[str, Any], model: nn.Module, pixels: Pixels) -> Applied:
    """The picture `pixels` through a model of the task `name`, whose `Task.config` is `config`.

    Raises: UsageError for a task that has no picture to show, DataError for a config of another.
    """
    if name not in APPLY:
        raise UsageError(f"the task {name!r} does not take a picture; {', '.join(APPLY)} do")
    try:
        return APPLY[name](config, model, pixels)
    except KeyError as error:
        raise DataError(
            f"the report lacks {error}, which {name} needs: make the model anew"
        ) from None


def painted(classes: Tensor, colours: Any) -> Pixels:
    """Classes as their colours. Shapes: (H, W) to (H, W, 3)."""
    picture: Pixels = np.asarray(colours, dtype=np.uint8)[classes.cpu().numpy()]
    return picture


def shaded(depth: Tensor) -> Pixels:
    """Depths as greys, near ones bright; the nearest is white, twice as far half as bright.

    Shapes: (H, W) to (H, W, 3).
    """
    near = 1 / depth.detach().cpu().double().clamp(min=1e-6)
    grey = (255 * near / near.max()).round().to(torch.uint8).numpy()
    return np.repeat(grey[..., None], 3, axis=2)


def _run(config: Mapping[str, Any], model: nn.Module, pixels: Pixels) -> tuple[Tensor, Tensor]:
    x = planes(pixels[None], float(config["image_range"])).to(device_of(model))
    with evaluating(model):
        return x, main_tensor(model(x)).float()


def _sized(pixels: Pixels, size: Any) -> Pixels:
    """A picture as the training pictures were: the middle square, or both sides brought to size."""
    height, width = (int(side) for side in size)
    return fitted(pixels, height) if height == width else imresize(pixels, (height, width))


def _classify(config: Mapping[str, Any], model: nn.Module, pixels: Pixels) -> Applied:
    _, logits = _run(config, model, _sized(pixels, config["size"]))
    names = config["classes"]
    if logits.shape != (1, len(names)):
        raise DataError(
            f"the model gives {tuple(logits.shape)} and the report names {len(names)} classes: "
            "they do not belong together"
        )
    order = logits[0].softmax(0).sort(descending=True, stable=True)
    found = zip(order.indices[:TOP].tolist(), order.values[:TOP].tolist(), strict=True)
    return Applied(classes=tuple((str(names[i]), p) for i, p in found))


def _segment(config: Mapping[str, Any], model: nn.Module, pixels: Pixels) -> Applied:
    x, logits = _run(config, model, pixels)
    if logits.shape[1] != len(config["colours"]):
        raise DataError(
            f"the model tells {logits.shape[1]} classes apart and the report has "
            f"{len(config['colours'])} colours: they do not belong together"
        )
    return Applied(picture=painted(checked(logits, x, "logits")[0].argmax(0), config["colours"]))


def _depth(config: Mapping[str, Any], model: nn.Module, pixels: Pixels) -> Applied:
    x, depth = _run(config, model, pixels)
    return Applied(picture=shaded(checked(depth, x, "depths")[0, 0]))


def _sr(config: Mapping[str, Any], model: nn.Module, pixels: Pixels) -> Applied:
    with evaluating(model):
        made = run_picture(
            model, pixels, scale=int(config["scale"]), image_range=float(config["image_range"])
        )
    return Applied(picture=made)


def _diffusion(config: Mapping[str, Any], model: nn.Module, pixels: Pixels) -> Applied:
    with evaluating(model):
        return Applied(picture=enlarged(sampler_from(config, model), pixels))


APPLY: dict[str, Callable[[Mapping[str, Any], nn.Module, Pixels], Applied]] = {
    "classify": _classify,
    "segment": _segment,
    "depth": _depth,
    "sr": _sr,
    "diffusion": _diffusion,
}
