"""A recipe: which places of a model become what, how bounds are found, and what is trained.

A recipe is a YAML file read with safe_load into the records below. Rules are ordered and the last
match wins, key by key. An unknown key, an impossible value or a selector that matches nothing is an
error that names the file, the key, what is allowed and the nearest name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, field_validator

from bitcompress.recipe import files
from bitcompress.recipe.files import SCHEMA_VERSION, Metadata, Part

Bits = int | Literal["bits"]
SearchName = Literal["minmax", "percentile", "mse", "dobi", "sign"]
Role = Literal["head", "tail", "depthwise", "pointwise", "bottleneck", "qk", "av"]
Kind = Literal["linear", "conv2d", "matmul"]


class Selector(Part):
    """Which places: every key that is given must match. Names are shell wildcards."""

    name: str | tuple[str, ...] = "*"
    type: Kind | None = None
    role: Role | None = None


class Apply(Part):
    """What the places become; a key left out keeps what earlier rules said."""

    keep: Literal["packed", "simulated", "float"] | None = None
    weight_bits: Bits | None = None
    act_bits: Bits | None = None
    per_channel: bool | None = None
    per_head: bool | None = None
    per_row: bool | None = None
    split: int | None = Field(default=None, ge=1, le=8)
    reason: str | None = None

    @field_validator("weight_bits", "act_bits")
    @classmethod
    def _width(cls, value: Bits | None) -> Bits | None:
        if isinstance(value, int) and not 1 <= value <= 8:
            raise ValueError(f"{value} bits; a code has 1 to 8 bits, or `bits` for the run's own")
        return value


class RuleUse(Part):
    """One rule: a selector and what it does."""

    match: Selector = Selector()
    apply: Apply
    optional: bool = False
    """Whether it is fine that the selector matches nothing in a given model."""


class Protect(Part):
    """Which further layers stay wide while the share of multiply-accumulates allows it."""

    share: float = Field(default=0.0, ge=0, le=1)
    bits: int = Field(default=8, ge=2, le=8)
    float_from: int = Field(default=9, ge=2, le=9)
    """From this width on they stay float: beside 8-bit layers, 8 bits are no protection."""
    float_share: float = Field(default=0.0, ge=0, le=1)
    """One that alone makes more than this share of the error before tuning stays float; 0: off."""
    roles: tuple[Role, ...] = ()
    loudest: bool = False
    """Whether what the roles leave goes to the layers whose error moves the output most."""


class Calibration(Part):
    """How bounds are found."""

    search: SearchName = "dobi"
    weight_search: SearchName | None = None
    patches: int = Field(default=16, ge=1)
    patch: int = Field(default=64, ge=8)
    batch: int = Field(default=2, ge=1)
    equalize: float = Field(default=0.0, ge=0, le=1)
    """How far input channels are brought to one deviation before they share a grid; 0 is off."""


class Train(Part):
    """What moves after calibration: nothing, the bounds (`dqc`), or everything (`finetune`)."""

    method: Literal["none", "dqc", "finetune"] = "none"
    steps: int | dict[int, int] = 0
    """Steps, or steps for each width."""
    quick_steps: int | dict[int, int] = 0
    """The same under --quick."""
    batch: int = Field(default=4, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    patch: int = Field(default=32, ge=8)
    lr_bounds: float = Field(default=1e-2, gt=0)
    lr_weights: float = Field(default=2e-4, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = Field(default=0, ge=0)
    relative_bounds: bool = True
    loss: Literal["paper", "code", "ours", "blocks"] = "ours"
    feature_weight: float = Field(default=1.0, ge=0)
    taps: tuple[str, ...] = ()
    """Modules whose outputs are compared; found from the module tree when empty."""
    save_every: int = Field(default=100, ge=1)


class Recipe(Part):
    """The whole plan of a run."""

    schema_version: int = SCHEMA_VERSION
    metadata: Metadata
    bits: int = Field(default=8, ge=1, le=8)
    rules: tuple[RuleUse, ...]
    protect: Protect = Protect()
    calibration: Calibration = Calibration()
    train: Train = Train()
    seed: int = 0
    fold_batchnorm: bool = True

    @field_validator("schema_version")
    @classmethod
    def _version(cls, value: int) -> int:
        if value != SCHEMA_VERSION:
            raise ValueError(f"schema_version {value}; this bitcompress reads {SCHEMA_VERSION}")
        return value

    @classmethod
    def load(cls, name_or_path: str | Path) -> Recipe:
        """The recipe of that name, or in that file.

        Raises: RecipeError naming the file, the key and what would be right.
        """
        path = files.find(name_or_path)
        return cls.parse(files.read(path), str(path))

    @classmethod
    def parse(cls, data: Any, origin: str = "recipe") -> Recipe:
        """The recipe that a mapping describes.

        Raises: RecipeError, one line a mistake.
        """
        return files.checked(cls, data, origin, "quantize")

    def override(self, **changes: Any) -> Recipe:
        """The same recipe with keys changed; `train.steps` is given as `train__steps`."""
        return self.set({key.replace("__", "."): value for key, value in changes.items()})

    def set(self, changes: Mapping[str, Any], origin: str = "--set") -> Recipe:
        """The same recipe with dotted keys changed, checked like a file."""
        return files.changed(self, changes, origin, Recipe.parse)

    def to_yaml(self) -> str:
        """The fully resolved recipe as YAML that loads to the same recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, width=100)

    def steps(self, bits: int, quick: bool = False) -> int:
        """How many training steps a run at this width takes."""
        table = self.train.quick_steps if quick else self.train.steps
        if isinstance(table, int):
            return table
        known = [width for width in sorted(table) if width >= bits]
        return table[known[0]] if known else 0
