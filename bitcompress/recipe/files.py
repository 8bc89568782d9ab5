"""Recipe files: where they lie, how they are read, and how a mistake in one is told.

A file says with `kind` which command it is for: `quantize`, also where it says nothing, or
`binarize`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from bitcompress.errors import RecipeError

KINDS = ("quantize", "binarize")
SCHEMA_VERSION = 1


class Part(BaseModel):
    """A part of a recipe: no key but its own, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Metadata(Part):
    """What the recipe is."""

    name: str
    paper: str = ""
    description: str = ""


R = TypeVar("R", bound=Part)


def folder() -> Path:
    """Where the shipped recipes lie: in the package, or beside it in a checkout."""
    inside = Path(__file__).parents[1] / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"


def names(kind: str | None = "quantize") -> list[str]:
    """The names of the shipped recipes of a kind, or of all kinds."""
    found = sorted(folder().glob("*.yaml"), key=lambda path: path.stem)
    return [path.stem for path in found if kind is None or kind_of(read(path)) == kind]


def find(name_or_path: str | Path, kind: str | None = "quantize") -> Path:
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
            f"no recipe {str(name_or_path)!r}{nearest(str(name_or_path), names(kind))}; give a "
            "path that ends in .yaml for a recipe of your own"
        )
    return shipped


def read(path: Path) -> Any:
    """What a YAML file holds. Raises: RecipeError naming the file."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a YAML file: {error}") from error


def kind_of(data: Any) -> str:
    """The command that a recipe's mapping is for."""
    said = data.get("kind", "quantize") if isinstance(data, Mapping) else "quantize"
    return str(said)


def checked(model: type[R], data: Any, origin: str, kind: str) -> R:
    """The recipe that a mapping describes.

    Raises: RecipeError, one line a mistake: the file, the key, what is allowed, the nearest name.
    """
    if not isinstance(data, Mapping):
        raise RecipeError(f"{origin}: a recipe is a mapping of keys, not {type(data).__name__}")
    said = kind_of(data)
    if said != kind:
        if said not in KINDS:
            raise RecipeError(f"{origin}: kind: {said!r} is no kind{nearest(said, KINDS)}")
        raise RecipeError(
            f"{origin}: a recipe of `bitcompress {said}`; `bitcompress {kind}` takes "
            f"{', '.join(names(kind))} or a file of your own with `kind: {kind}`"
        )
    try:
        return model.model_validate({k: v for k, v in data.items() if k != "kind"})
    except ValidationError as error:
        raise RecipeError(_explain(model, origin, error)) from error


def changed(
    recipe: R, changes: Mapping[str, Any], origin: str, parse: Callable[[Any, str], R]
) -> R:
    """The same recipe with dotted keys changed, checked like a file."""
    data = recipe.model_dump(mode="json")
    for key, value in changes.items():
        place = data
        *path, last = key.split(".")
        for part in path:
            if not isinstance(place.get(part), dict):
                raise RecipeError(f"{origin}: no key {key!r}{nearest(part, list(place))}")
            place = place[part]
        if last not in place:
            raise RecipeError(f"{origin}: no key {key!r}{nearest(last, list(place))}")
        place[last] = value
    return parse(data, origin)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest one, and all that are known."""
    names_known = list(known)
    close = difflib.get_close_matches(name, names_known, 1)
    hint = f"; did you mean {close[0]!r}" if close else ""
    return f"{hint} (known: {', '.join(names_known)})"


def _explain(model: type[BaseModel], origin: str, error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = _known(model, item["loc"][:-1])
            message = f"unknown key{nearest(str(item['loc'][-1]), known)}"
        elif item["type"] == "literal_error":
            allowed = str(item.get("ctx", {}).get("expected", "")).replace(" or ", ", ")
            words = [word.strip().strip("'") for word in allowed.split(",")]
            given = item.get("input")
            message = f"{given!r} is none of the values{nearest(str(given), words)}"
        lines.append(f"{origin}: {where}: {message}")
    return "\n".join(lines)


def _known(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed at a place of a recipe."""
    here = model
    for part in path:
        field = here.model_fields.get(str(part))
        if field is not None:
            here = next(iter(_parts(field.annotation)), here)
    return list(here.model_fields)


def _parts(annotation: Any) -> list[type[BaseModel]]:
    """The parts that an annotation speaks of: of `tuple[RuleUse, ...]` it is RuleUse."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for inner in get_args(annotation) for part in _parts(inner)]
