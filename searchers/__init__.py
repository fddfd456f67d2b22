"""Search methods, and the loop around them: ask and tell in plain Python, or a searcher for Ray Tune.

What needs Ray (`BananasSearch` and the other searchers of Tune) is loaded on first use.
"""

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raynas.errors import ConfigError
from raynas.registry import check_options, resolve
from raynas.spaces import SearchSpace
from searchers.alphax import AlphaX
from searchers.bananas import Bananas, BananasPaper
from searchers.bohamiann import Bohamiann
from searchers.bohb import BOHB
from searchers.bonas import BONAS
from searchers.dngo import DNGO
from searchers.engine import Engine
from searchers.evolution import Evolution
from searchers.fitting import Refit
from searchers.gcn import GCN
from searchers.gp import GPBayesOpt
from searchers.local_search import LocalSearch
from searchers.method import FunctionMethod, Method, OneShot, Origin, Proposal, Suggestion
from searchers.nasbot import Nasbot
from searchers.npenas import NPENAS, NPENASNP
from searchers.random import Random
from searchers.reinforce import Reinforce
from searchers.surrogate import Surrogate
from searchers.tpe import TPE
from searchers.weaknas import WeakNAS

if TYPE_CHECKING:
    from searchers.tune import BananasPaperSearch as BananasPaperSearch
    from searchers.tune import BananasSearch as BananasSearch
    from searchers.tune import RandomSearch as RandomSearch
    from searchers.tune import RegularizedEvolutionSearch as RegularizedEvolutionSearch
    from searchers.tune import TuneSearcher as TuneSearcher

SEARCHERS: dict[str, Any] = {
    "bananas": Bananas,
    "bananas-paper": BananasPaper,
    "random": Random,
    "evolution": Evolution,
    "alphax": AlphaX,
    "bohb": BOHB,
    "local-search": LocalSearch,
    "reinforce": Reinforce,
    "tpe": TPE,
    "gp": GPBayesOpt,
    "nasbot": Nasbot,
    "dngo": DNGO,
    "bohamiann": Bohamiann,
    "gcn": GCN,
    "bonas": BONAS,
    "npenas": NPENAS,
    "npenas-np": NPENASNP,
    "weaknas": WeakNAS,
    "darts": "trainables.oneshot:DartsTrial",
    "pc-darts": "trainables.oneshot:PCDartsTrial",
    "random-ws": "trainables.oneshot:RandomTrial",
}
"""Methods by name; a text names the trial of a one-shot search."""

_OF_ENGINE = ("points_to_evaluate", "fitting")  # options of the engine that users give beside those of the method
_OF_TUNE = ("BananasPaperSearch", "BananasSearch", "RandomSearch", "RegularizedEvolutionSearch", "TuneSearcher")


def oneshot_method(name: str, options: Mapping[str, Any]) -> OneShot | None:
    """The one-shot search `name`, or that of the trial `module:Class`; None for any other method.

    Raises:
        UnknownNameError: there is no such method.
    """
    if isinstance(trial := SEARCHERS.get(name), str):
        return OneShot(trial=trial, options=options)
    if getattr(resolve(SEARCHERS, name, "searcher"), "oneshot", False):
        return OneShot(trial=name, options=options)
    return None


def make_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """The method registered as `name`, or that of `module:Class` or `module:function`, with these settings.

    Raises:
        UnknownNameError: no such method, or it does not take one of the options.
        ConfigError: an option has a value that is not allowed, or `name` is no method.
    """
    options = options or {}
    oneshot = oneshot_method(name, options)
    if oneshot is not None:
        return oneshot
    made = resolve(SEARCHERS, name, "searcher")
    kind = f"searcher {name!r}"
    if inspect.isfunction(made):
        try:
            inspect.signature(made).bind("space", "history", "rng", "count")
        except TypeError as error:
            raise ConfigError(f"{kind} must be a function of (space, history, rng, count): {error}") from error
        return FunctionMethod(function=made, **check_options(Random, options, kind))
    if not (inspect.isclass(made) and issubclass(made, Method)):
        raise ConfigError(f"{kind} must be a subclass of searchers.Method, or a function propose(space, history, rng, count)")
    if inspect.isabstract(made):
        raise ConfigError(f"{kind} is not finished: it lacks {', '.join(sorted(made.__abstractmethods__))}")
    checked = check_options(made, options, kind)
    try:
        method: Method = made(**checked)
    except TypeError as error:
        raise ConfigError(f"{kind} cannot be made: {error}") from error
    return method


def split_options(name: str, options: Mapping[str, Any]) -> tuple[Method, dict[str, Any]]:
    """The method that `options` make, and those among them that are for the engine.

    Raises:
        UnknownNameError, ConfigError: as `make_method`; or an option is not the user's to set.
    """
    for option in ("space", "metric", "mode", "objective", "method"):
        if option in options:
            raise ConfigError(f"{option} is no option of the searcher here; the command sets it")
    of_engine = {key: options[key] for key in _OF_ENGINE if key in options}
    points = of_engine.get("points_to_evaluate", [])
    if not isinstance(points, (list, tuple)):
        raise ConfigError(f"points_to_evaluate takes a list of architectures as JSON, not {points!r}")
    return make_method(name, {key: value for key, value in options.items() if key not in _OF_ENGINE}), of_engine


def make_engine(name: str, space: SearchSpace, options: Mapping[str, Any], **settings: Any) -> Engine:
    """The ask/tell loop of the method `name`, with a user's `options` over the caller's `settings`; raises as `split_options`."""
    method, of_engine = split_options(name, options)
    return Engine(method, space, **(settings | of_engine))


def make_searcher(name: str, space: SearchSpace, options: Mapping[str, Any], **settings: Any) -> "TuneSearcher":
    """The same as a searcher of Tune."""
    from searchers.tune import TuneSearcher

    method, of_engine = split_options(name, options)
    return TuneSearcher(space, method=method, **(settings | of_engine))


def __getattr__(name: str) -> Any:
    if name not in _OF_TUNE:
        raise AttributeError(f"module 'searchers' has no attribute {name!r}")
    return getattr(importlib.import_module("searchers.tune"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_TUNE})


__all__ = [
    "BOHB",
    "BONAS",
    "DNGO",
    "GCN",
    "NPENAS",
    "NPENASNP",
    "SEARCHERS",
    "TPE",
    "AlphaX",
    "Bananas",
    "BananasPaper",
    "BananasPaperSearch",
    "BananasSearch",
    "Bohamiann",
    "Engine",
    "Evolution",
    "FunctionMethod",
    "GPBayesOpt",
    "LocalSearch",
    "Method",
    "Nasbot",
    "OneShot",
    "Origin",
    "Proposal",
    "Random",
    "RandomSearch",
    "Refit",
    "RegularizedEvolutionSearch",
    "Reinforce",
    "Suggestion",
    "Surrogate",
    "TuneSearcher",
    "WeakNAS",
    "make_engine",
    "make_method",
    "make_searcher",
    "oneshot_method",
    "split_options",
]
