"""How architectures are trained: recipes by name, recipes of one's own, and what a space chooses."""

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from raynas.errors import ConfigError, RaynasError, UnknownNameError
from raynas.spaces import make_space
from raynas.spaces.nasbench201 import NASBench201Space
from trainables.learning.photos import View
from trainables.learning.recipes import RECIPES, Recipe, make_recipe, read_recipe

NB101, NB201, DARTS = (make_space(name) for name in ("nasbench101", "nasbench201", "darts"))


class OwnSpace(NASBench201Space):
    """A space that no recipe names."""

    name = "own"
    recipes = {}  # noqa: RUF012


class ChoosySpace(OwnSpace):
    """A space with a recipe of its own."""

    recipes = {"search": {"epochs": 3}, "train": {"base": "nasbench201", "epochs": 7}}  # noqa: RUF012


def test_a_space_chooses_its_recipes() -> None:
    assert make_recipe(None, NB101).optimizer == "rmsprop"
    assert make_recipe(None, DARTS, "cifar10").epochs == 600
    assert make_recipe(None, DARTS, "cifar10", "search").name == "darts-search"
    assert make_recipe(None, NB101, "cifar10", "search").name == "nasbench101"
    for purpose in ("search", "train"):
        assert make_recipe(None, DARTS, "digits", purpose).name == "quick"  # type: ignore[arg-type]
        assert make_recipe(None, OwnSpace(), "cifar10", purpose).name == "quick"  # type: ignore[arg-type]
    assert all(make_recipe("quick", space).name == "quick" for space in (NB101, NB201, DARTS, OwnSpace()))
    search, train = make_recipe(None, ChoosySpace(), None, "search"), make_recipe(None, ChoosySpace())
    assert (search.name, search.epochs, search.batch_size) == ("quick with epochs=3", 3, 64)
    assert (train.name, train.epochs, train.batch_size) == ("nasbench201 with epochs=7", 7, 256)
    assert make_recipe({"epochs": 9}, ChoosySpace()).epochs == 9


def test_published_recipes_stay_with_their_spaces() -> None:
    with pytest.raises(ConfigError, match="'darts-final' does not train architectures of space 'nasbench201'; use nasbench201 or quick"):
        make_recipe("darts-final", NB201)
    with pytest.raises(ConfigError, match="does not train architectures of space 'nasbench201'"):
        make_recipe({"base": "darts-final", "epochs": 3}, NB201)
    recipe = make_recipe("darts-final", OwnSpace())  # which no recipe names
    assert recipe.network_options("own") == {}
    assert recipe.network_options("darts")["layers"] == 20


def test_every_value_of_a_published_recipe_is_allowed() -> None:
    for name, recipe in RECIPES.items():
        space = make_space(next(iter(recipe.networks)))
        values = {key: value for key, value in asdict(recipe).items() if key not in ("name", "source", "networks")}
        assert make_recipe({"base": "quick", **values}, space).batch_size == recipe.batch_size
        assert make_recipe({"base": name, **values}, space) == recipe


def test_a_recipe_of_ones_own_is_another_one_changed() -> None:
    recipe = make_recipe({"base": "quick", "learning_rate": 0.05, "network": {"channels": 4}}, NB201)
    quick = RECIPES["quick"]
    assert recipe.name == "quick with learning_rate=0.05, network.channels=4"
    assert recipe.network_options("nasbench201") == {"channels": 4, "stages": 2, "cells": 1}
    assert recipe.network_options("darts") == quick.network_options("darts")
    changed = {"name", "learning_rate", "networks"}
    assert {f.name for f in fields(Recipe) if getattr(recipe, f.name) != getattr(quick, f.name)} == changed
    assert make_recipe({"base": "quick"}, NB201) == quick
    assert make_recipe({"learning_rate": 0.05}, NB201, "digits").name == "quick with learning_rate=0.05"
    assert make_recipe({"learning_rate": 0.05}, DARTS, "cifar10", "search").name == "darts-search with learning_rate=0.05"
    assert make_recipe({"base": "quick", "learning_rate": "1e-3"}, NB201).learning_rate == 1e-3  # YAML reads 1e-3 as a text
    assert make_recipe({"base": "quick", "name": "mine", "clip": None}, NB201).name == "mine: quick with clip=null"
    assert make_recipe({"base": "quick", "network": {"channels": 4}}, OwnSpace()).network_options("own") == {"channels": 4}


def test_different_recipes_have_different_names() -> None:
    specs: list[Mapping[str, Any]] = [
        {"base": "quick"},
        {"base": "quick", "epochs": 6},
        {"base": "quick", "epochs": 7},
        {"base": "nasbench201", "epochs": 7},
        {"base": "quick", "epochs": 7, "flip": False},
        {"base": "quick", "network": {"channels": 3}},
        {"base": "quick", "network": {"cells": 3}},
    ]
    assert len({make_recipe(spec, NB201).name for spec in specs}) == len(specs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "quik"}, "unknown recipe 'quik'; did you mean 'quick'"),
        ({"base": {"epochs": 3}}, "base of a recipe is the name of another, one of nasbench101, "),
        ({"learning_rat": 0.1}, "unknown field of a recipe 'learning_rat'; did you mean 'learning_rate'"),
        ({"networks": {}}, "unknown field of a recipe 'networks'; did you mean 'network'"),
        ({"network": "wide"}, "network of a recipe holds options of the network, as in recipe.network.channels=8; not 'wide'"),
        ({"epochs": 0}, "epochs of a recipe cannot be 0: input should be greater than or equal to 1"),
        ({"epochs": 1.5}, "epochs of a recipe cannot be 1.5: input should be a valid integer"),
        ({"batch_size": 1}, "batch_size of a recipe cannot be 1: input should be greater than or equal to 2"),
        ({"validation": 1.0}, "validation of a recipe cannot be 1.0: input should be less than 1"),
        ({"validation": -0.1}, "validation of a recipe cannot be -0.1"),
        ({"learning_rate": 0.0}, "learning_rate of a recipe cannot be 0.0: input should be greater than 0"),
        ({"learning_rate": float("inf")}, "learning_rate of a recipe cannot be inf: input should be a finite number"),
        ({"optimizer": "adam"}, "optimizer of a recipe cannot be 'adam': input should be 'sgd' or 'rmsprop'"),
        ({"cosine": "never"}, "cosine of a recipe cannot be 'never'"),
        ({"momentum": 1}, "momentum of a recipe cannot be 1"),
        ({"drop_path": 1}, "drop_path of a recipe cannot be 1"),
        ({"clip": 0}, "clip of a recipe cannot be 0"),
        ({"padding": -1}, "padding of a recipe cannot be -1"),
        ({"flip": "perhaps"}, "flip of a recipe cannot be 'perhaps'"),
        ({"name": 3}, "name of a recipe cannot be 3"),
        ({"optimizer": "rmsprop"}, "nesterov of a recipe needs the optimizer 'sgd' and a momentum above 0; set nesterov to false"),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RaynasError, match=message.replace("(", r"\(")) as caught:
        make_recipe({"base": "quick"} | changes, NB201)
    assert "\n" not in str(caught.value)


def test_a_search_needs_validation_images() -> None:
    for spec in ("darts-final", {"base": "darts-search", "validation": 0}):
        with pytest.raises(ConfigError, match="holds no validation images out"):
            make_recipe(spec, DARTS, None, "search")  # type: ignore[arg-type]
        make_recipe(spec, DARTS, None, "train")  # type: ignore[arg-type]


def test_a_recipe_is_read_from_a_file(tmp_path: Path) -> None:
    assert read_recipe("quick") == "quick"
    (tmp_path / "mine.yaml").write_text("base: quick\nlearning_rate: 5e-2\nnetwork: {channels: 4}\n")
    read = read_recipe(str(tmp_path / "mine.yaml"))
    assert read == {"base": "quick", "learning_rate": "5e-2", "network": {"channels": 4}}
    assert make_recipe(read, NB201).learning_rate == 0.05
    for text, message in (("- 1", "must hold keys and values"), ("a: [", "is not valid YAML")):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_recipe(str(tmp_path / "mine.yaml"))
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.yml: No such file"):
        read_recipe(str(tmp_path / "nowhere.yml"))
    with pytest.raises(UnknownNameError, match=r"unknown recipe 'fast'\. Known: FILE\.yaml, darts-final"):
        make_recipe("fast", NB201)


def test_the_file_on_the_page_is_a_recipe(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "images.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"(?s)```yaml\n(.*?)```", page)
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    recipe = make_recipe(read_recipe(str(tmp_path / "mine.yaml")), make_space("mobile"))
    assert recipe.view == View(96, 110)
    assert (recipe.policy, recipe.erasing, recipe.mixup, recipe.cutmix, recipe.epochs) == ("trivial", 0.25, 0.2, 1.0, 100)


@pytest.mark.parametrize(("size", "resize"), [(None, 100), (64, 63)])
def test_what_is_cut_is_no_larger_than_what_it_is_cut_from(size: int | None, resize: int) -> None:
    with pytest.raises(ConfigError, match=f"resize of a recipe needs an image_size that is no larger; they are {resize} and {size}"):
        make_recipe({"base": "quick", "image_size": size, "resize": resize}, make_space("mobile"))
