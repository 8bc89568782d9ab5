"""Recipes: YAML files that say what becomes of a model, checked key by key.

`Recipe` is what `bitcompress quantize` takes, `BinaryRecipe` what `bitcompress binarize` takes.
"""

from __future__ import annotations

from pathlib import Path

from bitcompress.recipe import files
from bitcompress.recipe.binary import BinaryRecipe
from bitcompress.recipe.files import KINDS, SCHEMA_VERSION, Metadata, find, folder, names
from bitcompress.recipe.quantize import Apply, Bits, Recipe, Selector

__all__ = [
    "KINDS",
    "SCHEMA_VERSION",
    "Apply",
    "BinaryRecipe",
    "Bits",
    "Metadata",
    "Recipe",
    "Selector",
    "find",
    "folder",
    "load_any",
    "names",
]


def load_any(name_or_path: str | Path) -> Recipe | BinaryRecipe:
    """The recipe of that name or in that file, of whichever kind it says it is.

    Raises: RecipeError as `Recipe.load`.
    """
    path = files.find(name_or_path, kind=None)
    data = files.read(path)
    if files.kind_of(data) == "binarize":
        return BinaryRecipe.parse(data, str(path))
    return Recipe.parse(data, str(path))
