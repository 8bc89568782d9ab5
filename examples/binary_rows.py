"""The rows of the binary tables: which network, on which data, with which recipe, how long."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from bitcompress.models.convnext import TINY_DEPTHS, TINY_DIMS


@dataclass(frozen=True)
class Setup:
    """A table: the float network, its data, and how long everybody may learn."""

    task: str
    data: str
    """Below the folder of --shared."""
    held: str | None = None
    checkpoint: str | None = None
    """Below the folder of --shared; without one `target` is built."""
    target: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    scale: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    float_fit: dict[str, Any] = field(default_factory=dict)
    """steps, batch, lr, optimizer, precision, channels_last of the float network."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Of every binary recipe of the table."""


SETUPS: dict[str, Setup] = {
    "cifar": Setup(
        task="classify", data="data/cifar10_jpeg.zip",
        checkpoint="data/weights/resnet_cifar10/resnet20-12fca82f.th",
        float_fit={"steps": 1200, "batch": 128, "lr": 2e-3, "optimizer": "sgd"},
        overrides={"train.steps": 6000, "train.batch": 64, "train.lr": 3.5e-3,
                   "train.precision": "bf16"},
    ),
    "sr": Setup(
        task="sr", data="data/photos", held="data/Set5/HR", target="edsr-direct", scale=2,
        config={"num_feat": 64, "num_block": 4, "upscale": 2},
        options={"patch": 32}, float_fit={"steps": 3000, "batch": 8, "lr": 1e-3},
        overrides={"train.steps": 3000, "train.batch": 8, "train.lr": 2e-3},
    ),
    "camvid": Setup(
        task="segment", data="data/CamVid", target="convnext-uper",
        config={"classes": 11, "depths": TINY_DEPTHS, "dims": TINY_DIMS, "width": 64},
        float_fit={"steps": 400, "batch": 4, "lr": 2e-3, "precision": "bf16",
                   "channels_last": True},
        overrides={"train.steps": 400, "train.batch": 4, "train.lr": 2e-3,
                   "train.precision": "bf16"},
    ),
    "depth": Setup(  # one scene: it exercises the way, and says nothing about quality
        task="depth", data="stereo", target="convnext-uper",
        config={"max_depth": 8.0, "depths": (1, 1), "dims": (32, 64), "width": 32},
        options={"crop": (96, 128)}, float_fit={"steps": 60, "batch": 4, "lr": 2e-3},
        overrides={"train.steps": 60, "train.batch": 4, "train.lr": 2e-3},
    ),
    "diffsr": Setup(
        task="diffusion", data="data/photos", held="data/Set5/HR", target="bidiffsr-tiny", scale=2,
        config={"spread": 0.05, "dropout": 0.0}, options={"patch": 16, "steps": 5},
        float_fit={"steps": 2400, "batch": 16, "lr": 3e-3},
        overrides={"train.steps": 2400},
    ),
}  # fmt: skip

SETUPS["cifar-long"] = replace(  # the same, for about 90 minutes of one core a row
    SETUPS["cifar"], overrides=SETUPS["cifar"].overrides | {"train.steps": 20000}
)


@dataclass(frozen=True)
class Row:
    """One line of a table: a float network, or what a recipe makes of it."""

    setup: str
    label: str
    recipe: str = ""
    """Empty: the float network itself."""
    learns: bool = True
    start: str = ""
    """The float row that a binary one starts from and learns from; empty: from scratch."""
    config: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)


def _recipes(setup: str, start: str, *names: str) -> dict[str, Row]:
    return {f"{setup}-{name}": Row(setup, name, name, start=start) for name in names}


def _ours(label: str, overrides: dict[str, Any]) -> Row:
    """A row of the diffusion table that changes the recipe and not the network."""
    return Row("diffsr", label, "bidiffsr", overrides=overrides)


ROWS: dict[str, Row] = {
    "cifar-float": Row("cifar", "float, as published", learns=False),
    "cifar-tuned": Row("cifar", "float, tuned on the copies"),
    **_recipes("cifar", "cifar-tuned", "reactnet", "bidense", "xnor", "bireal", "irnet"),
    **_recipes("cifar-long", "cifar-tuned", "reactnet", "bidense", "xnor"),
    "sr-float": Row("sr", "float"),
    **_recipes("sr", "sr-float", "bidense", "reactnet", "bireal", "xnor"),
    "sr-no-body": Row("sr", "no body: head and tail alone", config={"body": False}),
    "camvid-float": Row("camvid", "float"),
    **_recipes("camvid", "camvid-float", "bidense", "reactnet", "xnor"),
    "depth-float": Row("depth", "float"),
    **_recipes("depth", "depth-float", "bidense"),
    "diffsr-float": Row("diffsr", "float"),
    "diffsr-full": Row("diffsr", "all: shortcut, CP, CS-Fusion, TaR, TaA", "bidiffsr"),
    "diffsr-no-time": _ours("without TaR and TaA", {"blocks.time_groups": 1}),
    "diffsr-tar-only": _ours("TaR alone", {"blocks.time_aware": "thresholds"}),
    "diffsr-taa-only": _ours("TaA alone", {"blocks.time_aware": "activations"}),
    "diffsr-two-groups": _ours("two time groups", {"blocks.time_groups": 2}),
    "diffsr-no-cs": Row("diffsr", "without CS-Fusion (split and add)", "bidiffsr",
                        config={"fusion": "split"}),
    "diffsr-no-cp": Row("diffsr", "without CP (pixel shuffles)", "bidiffsr",
                        config={"resample": "shuffle"}),
    "diffsr-xnor": _ours("plain XNOR blocks", {"blocks.method": "xnor", "blocks.time_groups": 1}),
}  # fmt: skip
