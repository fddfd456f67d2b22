"""The command that trains the best architecture of a run."""

import json
import shlex

from raynas import storage
from raynas.config import RunConfig

IMAGES = ("digits", "cifar10", "cifar100", "svhn", "fashion-mnist")
"""Data sets whose images raynas has; as `trainables.learning.data.DATASETS`, which would load torch."""

_MENDED = "DATASET: images to train on, as folder:PATH or module:function"


def train_command(uri: str, config: RunConfig, dataset: str) -> tuple[str, str | None]:
    """The command for the architecture in `best.json` of the run in `uri`, and what its reader must put in, if anything.

    `dataset` is the one that the run is about; a table may be of one whose images raynas does not have.
    """
    known = dataset in IMAGES or ":" in dataset
    command = ["python", "-m", "raynas.train", "--arch", storage.join(uri, "best.json"), "--dataset", dataset if known else "DATASET"]
    recipe = config.recipe if config.recipe is not None else config.trainable_options.get("recipe")
    if isinstance(recipe, str):
        command += ["--recipe", recipe]
    elif isinstance(recipe, dict):
        if "base" in recipe:
            command += ["--recipe", str(recipe["base"])]
        for key, value in recipe.items():
            command += ["--set", f"recipe.{key}={json.dumps(value)}"] if key != "base" else []
    return shlex.join(command), None if known else _MENDED
