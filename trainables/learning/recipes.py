"""How architectures are trained: the recipes of the publications, a quick one, and recipes of one's own over these."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from raynas.errors import ConfigError
from raynas.registry import unknown
from raynas.spaces import SearchSpace
from raynas.storage import read_yaml
from trainables.learning.photos import View

Purpose = Literal["search", "train"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Pixels = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A way to train. The learning rate falls to 0 along half a cosine over all `epochs`."""

    name: str  # two different recipes never share one
    source: str
    networks: Mapping[str, Mapping[str, Any]]  # by space: the options of its network
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=2)]
    validation: Fraction  # of the training images that is held out
    optimizer: Literal["sgd", "rmsprop"] = "sgd"
    learning_rate: Positive
    cosine: Literal["step", "epoch"] = "step"  # how often the learning rate changes
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NotNegative  # of all trainable variables, added to the gradient (L2)
    clip: Positive | None = None  # largest norm of the gradient
    image_size: Annotated[int, Field(ge=8, le=4096)] | None = None  # of photographs in a folder; None: they have one size, and keep it
    resize: Annotated[int, Field(ge=8, le=8192)] | None = None  # side to which they are scaled before; None: 8/7 of image_size
    fit: Literal["crop", "pad", "stretch"] = "crop"  # how they become square
    crop_area: Annotated[float, Field(gt=0, le=1)] = 0.08  # of a photograph, the least that a random crop of it shows
    padding: Pixels = 4  # margin around a training image, of which it is a random crop; not of photographs
    flip: bool = True  # mirrors training images at random, where the data set allows it
    policy: Literal["none", "trivial", "rand", "auto", "augmix"] = "none"  # random changes of colours and shapes
    cutout: Pixels = 0  # side of the square that is blanked
    erasing: Probability = 0.0  # with which a random rectangle is blanked: Zhong et al. 2020, arXiv:1708.04896
    mixup: NotNegative = 0.0  # alpha of mixing pairs of images: Zhang et al. 2018, arXiv:1710.09412
    cutmix: NotNegative = 0.0  # alpha of pasting parts of other images: Yun et al. 2019, arXiv:1905.04899
    drop_path: Fraction = 0.0  # in the last epoch; it grows linearly from 0
    auxiliary_weight: NotNegative = 0.0  # of the auxiliary head's loss
    calibration: Annotated[int, Field(ge=0)] = 0  # images from which batch norms learn their statistics after an epoch; 0: running means
    label_smoothing: Fraction = 0.0  # probability mass that is spread evenly over all classes: Szegedy et al. 2016, arXiv:1512.00567

    def network_options(self, space: str) -> Mapping[str, Any]:
        """Options of the network of the space of this name; none where the recipe does not name it."""
        return self.networks.get(space, {})

    @property
    def view(self) -> View | None:
        """What a network sees of photographs in a folder; None: all of them."""
        if self.image_size is None:
            return None
        return View(self.image_size, round(self.image_size * 8 / 7) if self.resize is None else self.resize, self.fit)


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
        "mobile": {"width": 0.25, "dropout": 0.0},
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


def _photos(name: str, epochs: int, image_size: int, validation: float) -> Recipe:
    return Recipe(
        name=name,
        source="after torchvision's for MobileNetV2, https://github.com/pytorch/vision/tree/main/references/classification; shorter",
        networks={"mobile": {}, "nasbench101": {}, "nasbench201": {}, "darts": {}},
        epochs=epochs,
        batch_size=64,
        validation=validation,
        learning_rate=0.05,
        nesterov=True,
        weight_decay=4e-5,
        clip=5.0,
        image_size=image_size,
        crop_area=0.25,
        calibration=1000,
        label_smoothing=0.1,
    )


RECIPES: dict[str, Recipe] = {
    "nasbench101": NASBENCH101,
    "nasbench201": NASBENCH201,
    "darts-search": _darts("darts-search", "White et al. 2021, https://arxiv.org/abs/1910.11858, section 5", 50, 0.3),
    "darts-final": _darts("darts-final", "Liu et al. 2019, https://arxiv.org/abs/1806.09055, section 3.2", 600, 0.0),
    "quick": QUICK,
    "photos": _photos("photos", 100, 224, 0.1),
    "photos-search": _photos("photos-search", 15, 128, 0.2),
}


def make_recipe(spec: str | Mapping[str, Any] | None, space: SearchSpace, dataset: str | None = None, purpose: Purpose = "train") -> Recipe:
    """The recipe that `spec` describes, for architectures of `space`.

    Args:
        spec: the name of a recipe. Or a recipe of one's own: fields of `Recipe` (but `networks`) that differ from the recipe `base`,
            and as `network` options of the network. None, also for `base`: what the space chooses (`SearchSpace.recipe`).
        purpose: "search" needs validation images, by which architectures are told apart.

    Raises:
        UnknownNameError: no such recipe, or no such field.
        ConfigError: the recipe is for other spaces, a value is not allowed, or no validation images are held out for a search.
    """
    base, own = (spec, {}) if spec is None or isinstance(spec, str) else (spec.get("base"), spec)
    if base is None:
        chosen = space.recipe(purpose, dataset)
        recipe = _named(chosen, space) if isinstance(chosen, str) else _changed(_named(chosen.get("base", "quick"), space), chosen, space)
    else:
        recipe = _named(base, space)
    recipe = _changed(recipe, own, space)
    if purpose == "search" and not recipe.validation:
        raise ConfigError(f"recipe {recipe.name!r} holds no validation images out, so nothing tells architectures apart in a search")
    return recipe


def read_recipe(text: str) -> str | dict[str, Any]:
    """What `make_recipe` takes, as a user names it: a recipe by name, or a YAML file that holds one.

    Raises:
        ConfigError: the file cannot be read, or holds no mapping.
    """
    return read_yaml(text) if text.endswith((".yaml", ".yml")) else text


def _named(name: Any, space: SearchSpace) -> Recipe:
    if not isinstance(name, str):
        raise ConfigError(f"base of a recipe is the name of another, one of {', '.join(RECIPES)}; not {name!r}")
    if name not in RECIPES:
        raise unknown("recipe", name, [*RECIPES, "FILE.yaml"])
    fitting = [known for known, recipe in RECIPES.items() if space.name in recipe.networks]
    if fitting and name not in fitting:
        raise ConfigError(f"recipe {name!r} does not train architectures of space {space.name!r}; use {' or '.join(fitting)}")
    return RECIPES[name]


def _changed(base: Recipe, changes: Mapping[str, Any], space: SearchSpace) -> Recipe:
    """`base` with other values, under a name that tells them."""
    changes = {key: value for key, value in changes.items() if key != "base"}
    known = [f.name for f in fields(Recipe) if f.name != "networks"]
    for key in changes:
        if key not in (*known, "network"):
            raise unknown("field of a recipe", key, [*known, "base", "network"])
    options = changes.get("network", {})
    if not isinstance(options, Mapping):
        raise ConfigError(f"network of a recipe holds options of the network, as in recipe.network.channels=8; not {options!r}")
    own = base.network_options(space.name)
    networks = {**base.networks, space.name: {**own, **options}}
    values = {f.name: getattr(base, f.name) for f in fields(Recipe)} | changes | {"networks": networks}
    values.pop("network", None)
    try:
        made = TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        field, problem = str(first["loc"][0]), first["msg"]
        raise ConfigError(f"{field} of a recipe cannot be {values[field]!r}: {problem[0].lower()}{problem[1:]}") from error
    if made.nesterov and (made.optimizer != "sgd" or not made.momentum):
        raise ConfigError("nesterov of a recipe needs the optimizer 'sgd' and a momentum above 0; set nesterov to false, or change these")
    if made.resize is not None and made.resize < (made.image_size or made.resize + 1):
        raise ConfigError(f"resize of a recipe needs an image_size that is no larger; they are {made.resize} and {made.image_size}")
    different = {key: getattr(made, key) for key in sorted(changes) if key in known[2:] and getattr(made, key) != getattr(base, key)}
    different |= {f"network.{key}": value for key, value in sorted(options.items()) if (key, value) not in own.items()}
    described = ", ".join(f"{key}={json.dumps(value)}" for key, value in different.items())
    name = f"{base.name} with {described}" if described else base.name
    return replace(made, name=f"{changes['name']}: {name}" if "name" in changes else name)
