"""A recipe: which places of a model become what, how bounds are found, and what is trained.

A recipe is a YAML file read with safe_load into the records below. Rules are ordered and the last
match wins, key by key. An unknown key, an impossible value or a selector that matches nothing is an
error that names the file, the key, what is allowed and the nearest name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bitcompress.errors import RecipeError

SCHEMA_VERSION = 1
Bits = int | Literal["bits"]
SearchName = Literal["minmax", "percentile", "mse", "dobi", "sign"]
Role = Literal["head", "tail", "depthwise", "pointwise", "bottleneck", "qk", "av"]
Kind = Literal["linear", "conv2d", "matmul"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Metadata(_Part):
    """What the recipe is."""

    name: str
    paper: str = ""
    description: str = ""


class Selector(_Part):
    """Which places: every key that is given must match. Names are shell wildcards."""

    name: str | tuple[str, ...] = "*"
    type: Kind | None = None
    role: Role | None = None


class Apply(_Part):
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


class RuleUse(_Part):
    """One rule: a selector and what it does."""

    match: Selector = Selector()
    apply: Apply
    optional: bool = False
    """Whether it is fine that the selector matches nothing in a given model."""


class Protect(_Part):
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


class Calibration(_Part):
    """How bounds are found."""

    search: SearchName = "dobi"
    weight_search: SearchName | None = None
    patches: int = Field(default=16, ge=1)
    patch: int = Field(default=64, ge=8)
    batch: int = Field(default=2, ge=1)
    equalize: float = Field(default=0.0, ge=0, le=1)
    """How far input channels are brought to one deviation before they share a grid; 0 is off."""


class Train(_Part):
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


class Recipe(_Part):
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
        path = find(name_or_path)
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RecipeError(f"{path}: cannot be read: {error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: not a YAML file: {error}") from error
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: Any, origin: str = "recipe") -> Recipe:
        """The recipe that a mapping describes.

        Raises: RecipeError, one line a mistake.
        """
        if not isinstance(data, Mapping):
            raise RecipeError(f"{origin}: a recipe is a mapping of keys, not {type(data).__name__}")
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise RecipeError(_explain(origin, error)) from error

    def override(self, **changes: Any) -> Recipe:
        """The same recipe with keys changed; `train.steps` is given as `train__steps`."""
        return self.set({key.replace("__", "."): value for key, value in changes.items()})

    def set(self, changes: Mapping[str, Any], origin: str = "--set") -> Recipe:
        """The same recipe with dotted keys changed, checked like a file."""
        data = self.model_dump(mode="json")
        for key, value in changes.items():
            place = data
            *path, last = key.split(".")
            for part in path:
                if not isinstance(place.get(part), dict):
                    raise RecipeError(f"{origin}: no key {key!r}{_nearest(part, list(place))}")
                place = place[part]
            if last not in place:
                raise RecipeError(f"{origin}: no key {key!r}{_nearest(last, list(place))}")
            place[last] = value
        return Recipe.parse(data, origin)

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


def folder() -> Path:
    """Where the shipped recipes lie: in the package, or beside it in a checkout."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "recipes"


def names() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def find(name_or_path: str | Path) -> Path:
    """The file of a recipe given by name or path.

    Raises: RecipeError if there is none.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise RecipeError(f"{path}: no such recipe file")
        return path
    shipped = folder() / f"{name_or_path}.yaml"
    if not shipped.is_file():
        raise RecipeError(
            f"no recipe {str(name_or_path)!r}{_nearest(str(name_or_path), names())}; give a path "
            "that ends in .yaml for a recipe of your own"
        )
    return shipped


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]!r}" if close else ""
    return f"{hint} (known: {', '.join(known)})"


def _explain(origin: str, error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key{_nearest(str(item['loc'][-1]), _known(item['loc'][:-1]))}"
        lines.append(f"{origin}: {where}: {message}")
    return "\n".join(lines)


def _known(path: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed at a place of a recipe."""
    tables: dict[str, type[BaseModel]] = {
        "metadata": Metadata, "match": Selector, "apply": Apply, "protect": Protect,
        "calibration": Calibration, "train": Train, "rules": RuleUse,
    }  # fmt: skip
    names_on_path = [str(part) for part in path if isinstance(part, str)]
    model = tables.get(names_on_path[-1], Recipe) if names_on_path else Recipe
    return list(model.model_fields)
