"""A recipe of `binarize`: which blocks a model's layers become, on which data, and how they learn.

It is read and checked like every recipe (files.py): an unknown key, an impossible value or a name
that nothing knows is an error that names the file, the key, what is allowed and the nearest name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from bitcompress.recipe import files
from bitcompress.recipe.files import SCHEMA_VERSION, Metadata, Part

MethodName = Literal["xnor", "bnn", "dorefa", "irnet", "bireal", "reactnet", "bidense", "bidiffsr"]
TaskName = Literal["auto", "classify", "sr", "segment", "depth", "diffusion"]


class Blocks(Part):
    """Which layers become binary blocks, and of which kind."""

    method: MethodName = "reactnet"
    time_groups: int = Field(default=1, ge=1, le=1000)
    """How many tables a time-aware block has; 1: no time."""
    time_arg: str | None = None
    """The input that holds the timestep; found by name where this is null."""
    time_steps: int | None = Field(default=None, ge=1)
    """How many timesteps there are; the model's own where this is null."""
    keep: tuple[str, ...] = ()
    """Layers that stay float: shell wildcards of names."""
    first_last: Literal["float", "binary"] = "float"
    """What meets the input and what makes the output."""
    min_channels: int = Field(default=16, ge=1)
    """Layers of fewer input channels stay float."""
    fp_tail_levels: int = Field(default=0, ge=0)
    """How many of the largest resolutions on the way up of a UNet stay float."""
    dab_scale: Literal["tensor", "group", "channel"] = "tensor"
    norm: Literal["auto", "batch", "affine", "none"] = "auto"
    reshape: bool = False
    """Whether resampling and concatenation become CP-Down, CP-Up, CS-Fusion where shapes allow."""


class Target(Part):
    """A network of bitcompress that the recipe trains where no model is given."""

    model: str
    config: dict[str, Any] = {}


class Data(Part):
    """What the student learns on."""

    task: TaskName = "auto"
    patch: int = Field(default=64, ge=8)
    """Side of a training patch of what the model makes, in pixels."""
    scale: int | None = Field(default=None, ge=1, le=8)
    """Enlargement of a super-resolution target of the recipe's own."""
    hold_out: int = Field(default=8, ge=2)
    """Without data to score, every so manieth file is kept from training and scored."""


class Stage(Part):
    """Two-stage training: binary activations first, weights real; then both binary."""

    first_share: float = Field(default=0.0, ge=0, lt=1)


class Distill(Part):
    """What is learnt from the float model."""

    weight: float = Field(default=0.0, ge=0)
    """Of the float model's answer beside the data's own."""
    temperature: float = Field(default=1.0, gt=0)
    features: float = Field(default=0.0, ge=0)
    """Of the features behind each block; 0 is off."""


class Gpd(Part):
    """Gap-preserving distillation: a wider teacher grown from the student learns beside it."""

    enabled: bool = False
    expand: int = Field(default=2, ge=1, le=8)
    branches: int = Field(default=1, ge=1, le=6)
    weight: float = Field(default=1.0, ge=0)


class BinaryTrain(Part):
    """How the student learns."""

    start: Literal["float", "scratch"] = "float"
    """From the float model's weights, or from random ones."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["cosine", "linear", "constant", "onecycle"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    steps: int = Field(default=2000, ge=0)
    quick_steps: int = Field(default=100, ge=0)
    batch: int = Field(default=16, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    ema: float = Field(default=0.0, ge=0, lt=1)
    clip: float = Field(default=0.0, ge=0)
    """The largest norm of all gradients; 0 is off."""
    stages: Stage = Stage()
    distill: Distill = Distill()
    gpd: Gpd = Gpd()
    settle_batches: int = Field(default=4, ge=1)
    """Batches on which thresholds, scales and norms are set before training."""
    save_every: int = Field(default=100, ge=1)


class BinaryRecipe(Part):
    """The whole plan of a run of `binarize`."""

    schema_version: int = SCHEMA_VERSION
    metadata: Metadata
    blocks: Blocks = Blocks()
    target: Target | None = None
    data: Data = Data()
    train: BinaryTrain = BinaryTrain()
    seed: int = 0

    @field_validator("schema_version")
    @classmethod
    def _version(cls, value: int) -> int:
        if value != SCHEMA_VERSION:
            raise ValueError(f"schema_version {value}; this bitcompress reads {SCHEMA_VERSION}")
        return value

    @model_validator(mode="after")
    def _time(self) -> BinaryRecipe:
        if self.blocks.time_arg is not None and self.blocks.time_groups < 2:
            raise ValueError("blocks.time_arg is named, but blocks.time_groups is 1: give 2")
        return self

    @classmethod
    def load(cls, name_or_path: str | Path) -> BinaryRecipe:
        """The recipe of that name, or in that file.

        Raises: RecipeError naming the file, the key and what would be right.
        """
        path = files.find(name_or_path, "binarize")
        return cls.parse(files.read(path), str(path))

    @classmethod
    def parse(cls, data: Any, origin: str = "recipe") -> BinaryRecipe:
        """The recipe that a mapping describes.

        Raises: RecipeError, one line a mistake.
        """
        return files.checked(cls, data, origin, "binarize")

    def set(self, changes: Mapping[str, Any], origin: str = "--set") -> BinaryRecipe:
        """The same recipe with dotted keys changed, checked like a file."""
        return files.changed(
            self, changes, origin,
            lambda data, place: BinaryRecipe.parse({"kind": "binarize", **data}, place),
        )  # fmt: skip

    def to_yaml(self) -> str:
        """The fully resolved recipe as YAML that loads to the same recipe."""
        data = {"kind": "binarize", **self.model_dump(mode="json")}
        return yaml.safe_dump(data, sort_keys=False, width=100)

    def steps(self, quick: bool = False) -> int:
        """How many training steps a run takes."""
        return self.train.quick_steps if quick else self.train.steps
