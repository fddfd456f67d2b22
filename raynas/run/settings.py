"""From what a user gives, in a command line or in Python, to the configuration of a run, which every node and later session reads alike."""

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from raynas import storage
from raynas.arch import Arch
from raynas.config import RESUMABLE, RunConfig, make_config
from raynas.errors import ConfigError, ResumeError
from raynas.registry import resolve
from raynas.run.lock import check_free, refuse_held
from raynas.run.trackers import refuse_secrets
from raynas.spaces import SPACES, SearchSpace
from raynas.trust import check_code
from searchers import SEARCHERS, Method, oneshot_method
from trainables import TRAINABLES
from trainables.learning.recipes import read_recipe

PHOTOGRAPHS = {"space": "mobile", "trainable": "train"}  # unless told otherwise, where the data are a folder of images
SEEDS = 4  # searches unless told otherwise, as in Liu et al. 2019, https://arxiv.org/abs/1806.09055, section 3.2
SHARED = ("data_dir", "device")  # options of the trials that train, which a one-shot search has too unless it is given others
SCHEDULERS: dict[str, str] = {
    "fifo": "ray.tune.schedulers:FIFOScheduler",
    "asha": "raynas.run.schedulers:Asha",
    "bananas-asha": "raynas.run.schedulers:BananasAsha",
    "hyperband": "raynas.run.schedulers:HyperBand",
    "median": "raynas.run.schedulers:Median",
}
REGISTRIES: dict[str, Mapping[str, Any]] = {
    "space": SPACES,
    "trainable": TRAINABLES,
    "searcher": SEARCHERS,
    "scheduler": SCHEDULERS,
}


def new_run(given: Mapping[str, Any]) -> tuple[RunConfig, str]:
    """The configuration of a new run, and its folder, which holds no run yet.

    Raises:
        ConfigError, UnknownNameError: a value is not allowed, or a key does not exist.
        ResultsError: the folder holds a run.
    """
    values = plain(given)
    if str(values.get("dataset", "")).startswith("folder:"):
        values = PHOTOGRAPHS | values
    config = make_config(values, RunConfig)
    if oneshot_method(config.searcher, {}) is not None:
        config = make_config({"trials": SEEDS, "trainable": "train"} | values, RunConfig)
    uri = config.out or _new_folder(config)
    refuse_held(uri)
    check_free(uri)
    return config, uri


def resumed_run(folder: str, given: Mapping[str, Any], own: bool = True) -> RunConfig:
    """The configuration with which the run in `folder` goes on, changed by what is given.

    Args:
        own: whether the run is the user's own, or trusted; of another one no code is loaded that is not named in `given` too.

    Raises:
        ConfigError, UnknownNameError: a value is not allowed, or a key does not exist; or the run names code and is not the user's own.
        ResultsError: there is no run in the folder.
        ResumeError: what is given would make it another search.
    """
    read, values = storage.read_config(folder), plain(given)
    check_code(storage.join(folder, "config.json"), read, values, own)
    stored = plain(read)  # loads code
    config = make_config(stored | values, RunConfig)  # a configuration of an earlier version has fewer keys
    before = make_config(stored, RunConfig)
    for key in values:
        old, new = getattr(before, key), getattr(config, key)
        if key not in RESUMABLE and old != new:
            raise ResumeError(
                f"the run in {folder} has {key} = {old!r}, so it cannot go on with {new!r}; "
                "leave that out, or start a new run with another --out"
            )
    return config


def plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as plain JSON that holds everywhere: classes by name, absolute paths, recipes by content.

    Trials have working directories of their own, and a run may go on from another; so paths are made absolute.
    """
    values = dict(given)
    if "log_options" in values:
        refuse_secrets(values.get("log"), values["log_options"])
        if (uri := values["log_options"].get("tracking_uri")) and os.sep in str(uri):  # not a name, as `databricks`
            values["log_options"] = {**values["log_options"], "tracking_uri": _path(uri)}
    if isinstance(values.get("searcher"), Method):
        method: Method = values["searcher"]
        settings = {f.name: getattr(method, f.name) for f in fields(method)}
        changed = {name: value for name, value in settings.items() if value != getattr(type(method)(), name)}
        values |= {"searcher": type(method), "searcher_options": changed | values.get("searcher_options", {})}
    for key, registry in REGISTRIES.items():
        if key in values:
            values[key] = name_of(key, values[key], registry)
    values = respelled(values)
    if isinstance(values.get("out"), Path):
        values["out"] = str(values["out"])
    if "table" in values:
        values["table"] = _path(values["table"])
    if isinstance(values.get("warm_start"), (str, list, tuple)):
        runs = [values["warm_start"]] if isinstance(values["warm_start"], str) else values["warm_start"]
        values["warm_start"] = [_path(run) for run in runs]
    dataset = values.get("dataset")
    if isinstance(dataset, str) and dataset.startswith("folder:"):
        values["dataset"] = "folder:" + _path(dataset.removeprefix("folder:"))
    for key in ("trainable_options", "searcher_options"):
        if isinstance(values.get(key), dict) and "data_dir" in values[key]:
            values[key] = values[key] | {"data_dir": _path(values[key]["data_dir"])}
    options = values.get("searcher_options")
    if isinstance(options, dict) and isinstance(options.get("points_to_evaluate"), (list, tuple)):
        points = [point.to_config() if isinstance(point, Arch) else point for point in options["points_to_evaluate"]]
        values["searcher_options"] = options | {"points_to_evaluate": points}
    if isinstance(values.get("recipe"), (str, dict)):
        values["recipe"] = _recipe(values["recipe"])
    return values


def respelled(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that name a one-shot search as the trainable, the way of version 0.1, in today's words; others as they are.

    Its options were among `trainable_options`, and those of the training that follows were called `retrain` there.

    Raises:
        ConfigError: a searcher is named besides.
        UnknownNameError: there is no such trainable.
    """
    values, name = dict(given), given.get("trainable")
    known = name in SEARCHERS and isinstance(SEARCHERS[name], str)
    if not known and (not isinstance(name, str) or name in TRAINABLES):
        return values
    if not known and not getattr(resolve(TRAINABLES, str(name), "trainable"), "oneshot", False):
        return values
    if values.get("searcher", "bananas") not in ("bananas", name) or values.get("searcher_options"):
        raise ConfigError(f"{name!r} is a search method itself: give --searcher {name}, and its options as searcher_options")
    values |= {"searcher": name, "trainable": "train"}
    if isinstance(options := values.pop("trainable_options", None), dict):
        retrain = options.get("retrain") or {}
        if not isinstance(retrain, dict):
            raise ConfigError(f"retrain must hold options of the training, not {retrain!r}; give them as trainable_options")
        values["searcher_options"] = {key: value for key, value in options.items() if key != "retrain"}
        values["trainable_options"] = {key: options[key] for key in SHARED if key in options} | retrain
    return values


def name_of(kind: str, value: Any, registry: Mapping[str, Any]) -> Any:
    """The name by which every process finds a class, a function or a space: a registered one, or `module:attribute`; texts stay.

    Raises:
        ConfigError: no other process could import it.
    """
    if isinstance(value, SearchSpace):
        return _home(value)
    if not callable(value):
        return value  # a text; anything else is refused by the configuration
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module is None or name is None:
        raise ConfigError(f"{kind} must be a name, a class or a function, not {value!r}")
    text, mend = f"{module}:{name}", "trials run in other processes, so move it to the top of a module that can be imported"
    if module == "__main__":
        raise ConfigError(f"the {kind} {name} is defined in the script or notebook that runs; {mend}")
    if getattr(importlib.import_module(module), name, None) is not value:  # within a function or a class
        raise ConfigError(f"the {kind} {name} cannot be imported from {module}; {mend}")
    return next((known for known, entry in registry.items() if entry is value or entry == text), text)


def _home(space: SearchSpace) -> str:
    """Where a space that is an object is found: `module:name`; raises ConfigError where no module has it at its top."""
    homes = [(module, name) for module, held in list(sys.modules.items()) for name, value in list(vars(held).items()) if value is space]
    importable = [f"{module}:{name}" for module, name in homes if module != "__main__"]
    if not importable:
        where = f"is {homes[0][1]} of the script or notebook that runs" if homes else "has no name at the top of a module"
        raise ConfigError(
            f"the space {space.name!r} {where}; trials run in other processes, so put `space = ...` at the top of a module that can be "
            "imported, and give that; or give its class, and space_options"
        )
    return importable[0]


def _path(text: Any) -> Any:
    return str(Path(text).expanduser().resolve()) if isinstance(text, (str, Path)) and "://" not in str(text) else text


def _recipe(recipe: str | dict[str, Any]) -> str | dict[str, Any]:
    """A recipe whose base is a name: what a YAML file holds is stored, not its path."""
    if isinstance(recipe, str):
        return read_recipe(recipe)
    base = read_recipe(recipe["base"]) if isinstance(recipe.get("base"), str) else None
    return base | {key: value for key, value in recipe.items() if key != "base"} if isinstance(base, dict) else recipe


def _new_folder(config: RunConfig) -> str:
    name = f"{config.space}-{config.searcher}".replace(":", "-")
    base = f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}"
    return next(path for path in [base, *(f"{base}-{i}" for i in range(2, 100))] if not Path(path).exists())
