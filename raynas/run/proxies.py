"""Zero-cost proxies of the networks that a run trains, as inputs of its searcher's model."""

import inspect
import time
from typing import Any

import numpy as np
from rich.console import Console

from raynas.config import RunConfig
from raynas.errors import ConfigError
from raynas.model.proxies import Proxies
from raynas.outcome import Objective
from raynas.registry import resolve
from raynas.spaces import SearchSpace
from raynas.storage import first_line
from searchers import SEARCHERS
from searchers.surrogate import Encoded


def proxies_of(
    config: RunConfig, trainable: Any, trial_config: dict[str, Any], space: SearchSpace, objective: Objective, console: Console
) -> dict[str, Any]:
    """The searcher's option that `config.proxies` stands for, none where it is false.

    Says what they cost, by those of one architecture of `space`.

    Raises:
        ConfigError: the trainable has none, or not some floats, or searcher or objective do not take them.
    """
    told = "proxies" in config.searcher_options
    if not (config.proxies or told):
        return {}
    method = resolve(SEARCHERS, config.searcher, "searcher")
    takes = inspect.isclass(method) and issubclass(method, Encoded)
    if takes and told:
        raise ConfigError("a run has no proxies among its searcher_options; give --proxies, for those that its trainable defines")
    if not config.proxies:
        return {}
    if not hasattr(trainable, "proxies"):
        raise ConfigError(f"--proxies are of networks that trials train, not of trainable {config.trainable!r}; add --trainable train")
    if not takes:
        raise ConfigError(f"--proxies are inputs of a model of vectors, which searcher {config.searcher!r} has not; use bananas")
    if not objective.single:
        raise ConfigError("--proxies go with one objective, and no limit on what has to be measured; leave them out")
    measure = trainable.proxies(trial_config)
    arch, began = space.sample(np.random.default_rng(config.seed)), time.perf_counter()
    try:
        values = np.array(measure(arch), dtype=np.float64)
    except Exception as error:  # whatever a trainable of the user's own raises
        raise ConfigError(f"the proxies of trainable {config.trainable!r} fail: {type(error).__name__}: {first_line(error)}") from error
    if values.ndim != 1 or not len(values):
        raise ConfigError(f"the proxies of trainable {config.trainable!r} must be some floats of an architecture, not {values.tolist()!r}")
    console.print(f"proxies: {time.perf_counter() - began:.2g} s or more for each network", highlight=False)
    return {"proxies": Proxies(measure, seed=config.seed)}
