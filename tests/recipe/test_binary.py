"""Recipes of binarize: what ships loads, every mistake is named, the two kinds are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bitcompress.errors import RecipeError
from bitcompress.recipe import BinaryRecipe, Recipe, load_any, names

MINIMAL: dict[str, Any] = {"kind": "binarize", "metadata": {"name": "mine"}}


def with_(**changes: Any) -> dict[str, Any]:
    """The smallest recipe with keys changed."""
    return {**MINIMAL, **changes}


@pytest.mark.parametrize("name", names("binarize"))
def test_what_is_shipped_loads_and_round_trips(name: str) -> None:
    loaded = BinaryRecipe.load(name)
    assert loaded.metadata.name == name and load_any(name) == loaded
    assert BinaryRecipe.parse(yaml.safe_load(loaded.to_yaml())) == loaded


def test_the_kinds_share_no_name_and_both_are_listed() -> None:
    shipped = {"reactnet", "bireal", "irnet", "xnor", "bidense", "bidiffsr"}
    assert shipped <= set(names("binarize"))
    assert not set(names("binarize")) & set(names())
    assert names(None) == sorted([*names(), *names("binarize")])


@pytest.mark.parametrize(
    ("data", "where", "nearest"),
    [
        (with_(block={}), "block", "blocks"),
        (with_(blocks={"time_group": 5}), "blocks.time_group", "time_groups"),
        (with_(data={"tasks": "sr"}), "data.tasks", "task"),
        (with_(train={"stepz": 3}), "train.stepz", "steps"),
        (with_(train={"stages": {"first": 0.5}}), "train.stages.first", "first_share"),
        (with_(train={"gpd": {"ratios": 2}}), "train.gpd.ratios", "ratio"),
        (with_(target={"model": "a", "confg": {}}), "target.confg", "config"),
    ],
)
def test_an_unknown_key_names_the_nearest(data: dict[str, Any], where: str, nearest: str) -> None:
    with pytest.raises(RecipeError) as caught:
        BinaryRecipe.parse(data, "mine.yaml")
    said = str(caught.value)
    assert f"mine.yaml: {where}: unknown key; did you mean '{nearest}' (known: " in said
    assert caught.value.exit_code == 2 and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("data", "where", "nearest"),
    [
        (with_(blocks={"method": "reactnt"}), "blocks.method", "reactnet"),
        (with_(data={"task": "segmnt"}), "data.task", "segment"),
        (with_(train={"optimizer": "sdg"}), "train.optimizer", "sgd"),
    ],
)
def test_an_unknown_word_names_the_nearest(data: dict[str, Any], where: str, nearest: str) -> None:
    with pytest.raises(RecipeError, match=rf"mine\.yaml: {where}: .*did you mean '{nearest}'"):
        BinaryRecipe.parse(data, "mine.yaml")


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2}, {"train": {"lr": 0}}, {"train": {"ema": 1.0}},
        {"train": {"stages": {"first_share": 1}}}, {"blocks": {"time_groups": 0}},
        {"train": {"distill": {"share": 2}}}, {"metadata": {}}, {"blocks": {"time_arg": "t"}},
        {"blocks": {"time_span": [0.1, 1]}}, {"blocks": {"time_span": [1, 1], "time_groups": 2}},
        {"blocks": {"time_aware": "thresholds"}}, {"blocks": {"time_aware": "x", "time_groups": 2}},
    ],
)  # fmt: skip
def test_impossible_values(change: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        BinaryRecipe.parse(with_(**change))


def test_a_recipe_of_the_other_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a recipe of `bitcompress binarize`; .*dobi"):
        Recipe.load("reactnet")
    with pytest.raises(RecipeError, match="a recipe of `bitcompress quantize`; .*reactnet"):
        BinaryRecipe.load("default")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    assert BinaryRecipe.load(path).metadata.name == "mine"
    with pytest.raises(RecipeError, match=r"mine\.yaml: a recipe of `bitcompress binarize`"):
        Recipe.load(path)
    path.write_text(yaml.safe_dump(with_(kind="binarise")))
    with pytest.raises(RecipeError, match="kind: 'binarise' is no kind; did you mean 'binarize'"):
        BinaryRecipe.load(path)


def test_dotted_keys_are_set_and_checked() -> None:
    plain = BinaryRecipe.load("reactnet")
    changed = plain.set({"train.steps": 7, "train.stages.first_share": 0.5})
    assert changed.steps() == 7 and changed.train.stages.first_share == 0.5
    assert plain.steps() != 7 and changed.steps(quick=True) == plain.train.quick_steps
    with pytest.raises(RecipeError, match="--set: no key 'train.stps'; did you mean 'steps'"):
        plain.set({"train.stps": 1})
