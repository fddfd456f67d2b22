"""How architectures are trained: the recipes of the publications, and a quick one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raynas.errors import ConfigError
from raynas.registry import unknown


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A way to train. The learning rate falls to 0 along half a cosine over all `epochs`."""

    name: str
    source: str
    networks: Mapping[str, Mapping[str, Any]]  # by space: the options of its network; other spaces have other recipes
    epochs: int
    batch_size: int
    validation: float  # fraction of the training images that is held out
    optimizer: Literal["sgd", "rmsprop"] = "sgd"
    learning_rate: float
    cosine: Literal["step", "epoch"] = "step"  # how often the learning rate changes
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float  # of all trainable variables, added to the gradient (L2)
    clip: float | None = None  # largest norm of the gradient
    padding: int = 4  # pixels of margin around a training image, of which it is a random crop
    flip: bool = True  # mirrors training images at random, where the data set allows it
    cutout: int = 0  # side in pixels of the square that is blanked
    drop_path: float = 0.0  # in the last epoch; it grows linearly from 0
    auxiliary_weight: float = 0.0  # of the auxiliary head's loss
    label_smoothing: float = 0.0  # probability mass that is spread evenly over all classes: Szegedy et al. 2016, arXiv:1512.00567


NASBENCH101 = Recipe(
    name="nasbench101",
    source="Ying et al. 2019, https://arxiv.org/abs/1902.09635; https://github.com/google-research/nasbench (config.py)",
    networks={"nasbench101": {}},
    epochs=108,
    batch_size=256,
    validation=0.2,
    optimizer="rmsprop",
    learning_rate=0.2,
    weight_decay=1e-4,
)

NASBENCH201 = Recipe(
    name="nasbench201",
    source="Dong & Yang 2020, https://arxiv.org/abs/2001.00326, table 1",
    networks={"nasbench201": {}},
    epochs=200,
    batch_size=256,
    validation=0.5,
    learning_rate=0.1,
    nesterov=True,
    weight_decay=5e-4,
)


def _darts(name: str, source: str, epochs: int, validation: float) -> Recipe:
    return Recipe(
        name=name,
        source=source,
        networks={"darts": {"channels": 36, "layers": 20, "auxiliary": True}},
        epochs=epochs,
        batch_size=96,
        validation=validation,
        learning_rate=0.025,
        cosine="epoch",
        weight_decay=3e-4,
        clip=5.0,
        cutout=16,
        drop_path=0.2,
        auxiliary_weight=0.4,
    )


QUICK = Recipe(
    name="quick",
    source="chosen for raynas: small networks that learn 8x8 digits within seconds on a CPU",
    networks={
        # The published momentum of the batch norms would need some 1,500 steps.
        "nasbench101": {"channels": 16, "stacks": 2, "modules": 1, "batch_norm_momentum": 0.1},
        "nasbench201": {"channels": 8, "stages": 2, "cells": 1},
        "darts": {"channels": 4, "layers": 3},
    },
    epochs=5,
    batch_size=64,
    validation=0.2,
    learning_rate=0.1,
    nesterov=True,
    weight_decay=5e-4,
    clip=5.0,
    padding=1,
)

RECIPES: dict[str, Recipe] = {
    "nasbench101": NASBENCH101,
    "nasbench201": NASBENCH201,
    "darts-search": _darts("darts-search", "White et al. 2021, https://arxiv.org/abs/1910.11858, section 5", 50, 0.3),
    "darts-final": _darts("darts-final", "Liu et al. 2019, https://arxiv.org/abs/1806.09055, section 3.2", 600, 0.0),
    "quick": QUICK,
}
DEFAULTS = {"nasbench101": "nasbench101", "nasbench201": "nasbench201", "darts": "darts-final"}  # by space
SEARCH_DEFAULTS = DEFAULTS | {"darts": "darts-search"}
FOR_DATASETS = {"digits": "quick"}  # what to do with those that no publication trains on


def make_recipe(name: str | None, space: str, dataset: str | None = None, defaults: Mapping[str, str] = DEFAULTS) -> Recipe:
    """The recipe `name`, or without one that for `dataset`, or else that for `space` among `defaults`.

    Raises:
        UnknownNameError: no such recipe.
        ConfigError: it is for other spaces, or `space` has none.
    """
    fitting = [known for known, recipe in RECIPES.items() if space in recipe.networks]
    if name is None:
        name = FOR_DATASETS.get(dataset or "") or defaults.get(space)
    if name is None:
        raise ConfigError(f"no recipe trains architectures of space {space!r}; there are recipes for {', '.join(DEFAULTS)}")
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    if name not in fitting:
        raise ConfigError(f"recipe {name!r} does not train architectures of space {space!r}; use {' or '.join(fitting) or 'another space'}")
    return RECIPES[name]
