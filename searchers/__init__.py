"""Search methods as Tune searchers: `tune.TuneConfig(search_alg=BananasSearch("darts", metric="valid_accuracy", mode="max"))`."""

from collections.abc import Mapping
from typing import Any

from raynas.errors import ConfigError
from raynas.registry import check_options, resolve
from raynas.spaces import SearchSpace
from searchers.bananas import BananasPaperSearch, BananasSearch
from searchers.base import ArchSearcher, Proposal
from searchers.evolution import RegularizedEvolutionSearch
from searchers.random import RandomSearch

SEARCHERS: dict[str, Any] = {
    "bananas": BananasSearch,
    "bananas-paper": BananasPaperSearch,
    "random": RandomSearch,
    "evolution": RegularizedEvolutionSearch,
}


def make_searcher(name: str, space: SearchSpace, options: Mapping[str, Any], **defaults: Any) -> ArchSearcher:
    """The searcher registered as `name` (or `module:Class`), with a user's `options` over the caller's `defaults`.

    Raises:
        UnknownNameError: no such searcher, or it does not take one of the options.
        ConfigError: an option has a value that is not allowed, or is not the user's to set.
    """
    factory = resolve(SEARCHERS, name, "searcher")
    for option in ("space", "metric", "mode"):
        if option in options:
            raise ConfigError(f"{option} is no option of the searcher here; the command sets it")
    made: ArchSearcher = factory(space, **(defaults | check_options(factory, options, f"searcher {name!r}")))
    return made


__all__ = [
    "SEARCHERS",
    "ArchSearcher",
    "BananasPaperSearch",
    "BananasSearch",
    "Proposal",
    "RandomSearch",
    "RegularizedEvolutionSearch",
    "make_searcher",
]
