"""Search by a graph convolutional network that ranks random architectures; torch carries it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from raynas.errors import ConfigError
from raynas.history import History
from raynas.model.candidates import distinct, random_archs
from raynas.spaces import SearchSpace
from searchers.method import Proposal
from searchers.surrogate import ByPredictor


@dataclass(frozen=True, kw_only=True)
class GCN(ByPredictor):
    """Neural predictor (Wen et al., ECCV 2020, arXiv 1912.00848): of many random architectures, those that a network likes are evaluated.

    The network learns from `num_initial` random ones, of 150 trials in the comparison with BANANAS 133: set it to about seven eighths
    of the trials. The reference code of that comparison ranked the candidates and then took the first of the unranked list; here the
    ranking counts. What is evaluated after the start is learned from, too, which the paper does not do.

    Args:
        sample: random architectures that are ranked, 50 for each of 150 trials there; fewer where draws keep repeating.
        predictor, predictor_options: one of raynas.model.predictors.PREDICTORS and its settings: four layers of 144, as published; the
            batches there are of seven or ten.
    """

    num_initial: int = 133
    sample: int = 7500
    predictor: str = "graph"
    target: str = "error_percent"
    refit_share: float = 1.0

    own_options: ClassVar[Mapping[str, Any]] = {
        "members": 1,
        "layers": 4,
        "width": 144,
        "hidden": 128,
        "layer": "gcn",
        "positions": False,
        "epochs": 300,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample < 1:
            raise ConfigError(f"sample must be at least 1, not {self.sample}")

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """The `count` of a random sample that the network likes best."""
        if not history.targets()[0]:
            return Proposal(random_archs(space, history, rng, count))
        learned = self.learn(space, history, rng)
        pool = distinct(lambda: space.sample(rng), max(self.sample, count), history)  # fewer, rather than to list a large space
        pool = pool if len(pool) >= count else random_archs(space, history, rng, count)
        if not pool:
            return Proposal(())
        prediction = learned.fitted.predict(pool)
        best = np.argsort(-prediction.mean, kind="stable")[:count]
        mean, std = prediction.mean[best], prediction.std[best]
        return learned.proposal([pool[i] for i in best], mean, std, mean, {})
