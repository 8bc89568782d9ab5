"""A recipe of `binarize`: which blocks a model's layers become, on which data, and how they learn.

It is read and checked like every recipe (files.py): an unknown key, an impossible value or a name
that nothing knows is an error that names the file, the key, what is allowed and the nearest name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from bitcompress.recipe import files
from bitcompress.recipe.files import SCHEMA_VERSION, Metadata, Part

MethodName = Literal["bnn", "xnor", "bireal", "irnet", "reactnet", "bidense", "bidiffsr"]
TaskName = Literal["auto", "classify", "sr", "segment", "depth", "diffusion"]


class Blocks(Part):
    """Which layers become binary blocks, and of which kind."""

    method: MethodName = "reactnet"
    time_groups: int = Field(default=1, ge=1, le=1000)
    """How many tables a time-aware block has; 1: no time."""
    time_aware: Literal["both", "thresholds", "activations"] = "both"
    """Which of a block's tables have a row for each time group."""
    time_arg: str | None = None
    """The input that holds the timestep; found by name where this is null."""
    time_steps: int | None = Field(default=None, ge=1)
    """How many timesteps there are; the model's own where this is null."""
    time_span: tuple[float, float] | None = None
    """The lowest and the highest noise level, where the model is told one in place of a timestep:
    groups are even in its logarithm."""
    keep: tuple[str, ...] = ()
    """Layers that stay float: shell wildcards of names."""
    first_last: Literal["float", "binary"] = "float"
    """What meets the input and what makes the output."""
    depthwise: bool = False
    """Whether layers with one channel a group become blocks too."""
    shortcut: Literal["auto", "always", "never"] = "auto"
    """auto: none where the model's own residual ends at the layer."""
    ends: Literal["learn", "keep"] = "learn"
    """learn: a ReLU behind the model's own shortcut becomes the activation of the method."""
    min_channels: int = Field(default=16, ge=1)
    """Layers with fewer channels on either side stay float."""
    fp_tail_levels: int = Field(default=0, ge=0)
    """How many of the largest resolutions on the way up of a UNet stay float."""
    dab_scale: Literal["none", "tensor", "group", "channel"] = "tensor"
    norm: Literal["auto", "batch", "affine", "none"] = "auto"
    """Of blocks whose layer has no batch norm; auto: batch where the model has any, else affine."""
    reshape: bool = False
    """Whether resampling and concatenation become CP-Down, CP-Up, CS-Fusion where shapes allow."""


class Target(Part):
    """A network of bitcompress that the recipe trains where no model is given."""

    model: str
    config: dict[str, Any] = {}


class Data(Part):
    """What the student learns on."""

    task: TaskName = "auto"
    """What the model is for; told from the model and the data where this is auto."""
    scale: int | None = Field(default=None, ge=1, le=8)
    """Enlargement, where the model does not say it."""
    options: dict[str, Any] = {}
    """Arguments of the task, e.g. patch; a task refuses those that it does not have."""


class Stages(Part):
    """Two-stage training: binary activations first, weights real; then both binary."""

    first_share: float = Field(default=0.0, ge=0, lt=1)


class Distill(Part):
    """What is learnt from the float model beside the data."""

    share: float | None = Field(default=None, ge=0, le=1)
    """Of the loss; 0: no teacher, null: what the task is best with."""
    temperature: float | None = Field(default=None, gt=0)
    """By which a classifier's answers are softened; null: the task's own."""


class Gpd(Part):
    """Gap-preserving distillation: a wider teacher grown from the student learns beside it."""

    enabled: bool = False
    ratio: int = Field(default=2, ge=1, le=4)
    """Copies side by side; a step costs 1 + ratio^2 steps of the student. 1: branches alone."""
    branches: bool = True
    """Whether kernels learn as several that merge in the end."""
    weight: float = Field(default=3.0, ge=0)
    """Of imitating the grown teacher."""


class BinaryTrain(Part):
    """How the student learns."""

    start: Literal["float", "scratch"] = "float"
    """From the float model's weights, or from random ones."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=1e-3, gt=0)
    rates: dict[str, float] = {}
    """Factors on the learning rate of parameters, by shell wildcards of their names."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["cosine", "linear", "constant", "onecycle"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    steps: int = Field(default=2000, ge=0)
    quick_steps: int = Field(default=100, ge=0)
    batch: int = Field(default=16, ge=1)
    quick_batch: int | None = Field(default=None, ge=1)
    """The batch of a quick run; as `batch` where this is null."""
    precision: Literal["fp32", "bf16"] = "fp32"
    ema: float = Field(default=0.0, ge=0, lt=1)
    clip: float = Field(default=0.0, ge=0)
    """The largest norm of all gradients; 0 is off."""
    stages: Stages = Stages()
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
        if self.blocks.time_aware != "both" and self.blocks.time_groups < 2:
            raise ValueError(
                f"blocks.time_aware is {self.blocks.time_aware}, but blocks.time_groups is 1: "
                "give 2 or more"
            )
        span = self.blocks.time_span
        if span is not None and not 0 < span[0] < span[1] < math.inf:
            raise ValueError(f"blocks.time_span is {list(span)}: give two rising positive levels")
        if span is not None and self.blocks.time_groups < 2:
            raise ValueError(
                "blocks.time_span is given, but blocks.time_groups is 1: give 2 or more"
            )
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
