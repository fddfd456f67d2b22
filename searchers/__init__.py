"""Search methods as Tune searchers: `tune.TuneConfig(search_alg=BananasSearch("darts", metric="valid_accuracy", mode="max"))`."""

from typing import Any

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

__all__ = ["SEARCHERS", "ArchSearcher", "BananasPaperSearch", "BananasSearch", "Proposal", "RandomSearch", "RegularizedEvolutionSearch"]
