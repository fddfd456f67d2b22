"""Search methods as Tune searchers: `tune.TuneConfig(search_alg=BananasSearch("darts", metric="valid_accuracy", mode="max"))`."""

from typing import Any

from searchers.bananas import BananasSearch
from searchers.base import ArchSearcher, Proposal
from searchers.evolution import RegularizedEvolutionSearch
from searchers.random import RandomSearch

SEARCHERS: dict[str, Any] = {
    "bananas": BananasSearch,
    "random": RandomSearch,
    "evolution": RegularizedEvolutionSearch,
}

__all__ = ["SEARCHERS", "ArchSearcher", "BananasSearch", "Proposal", "RandomSearch", "RegularizedEvolutionSearch"]
