"""WeakNAS: weak predictors, one after the other, rank the whole space (Wu et al., NeurIPS 2021, arXiv 2102.10490).

N: architectures that are ranked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History
from raynas.model.candidates import candidates, everything, random_archs
from raynas.model.encodings import encode
from raynas.model.predictors.base import FittedOnVectors, FittedPredictor, Floats, Inputs
from raynas.model.predictors.informed import FittedInformed
from raynas.spaces import SearchSpace
from searchers.method import Proposal
from searchers.surrogate import ByPredictor

_ROWS = 8192  # architectures that are encoded or predicted at once: a network's hidden layers take width x members numbers for each


@dataclass(frozen=True, kw_only=True)
class WeakNAS(ByPredictor):
    """Each round fits a predictor to all results, ranks the whole space by it, and draws what to evaluate from the `top` of that.

    Section 2.2 of the paper with the settings of its code: rounds of `refit_every`, drawn uniformly, known ones counting among the `top`;
    where too few of these are new, the best predicted new ones follow. So the draws become greedier as the best come to be known.
    What differs: the predictor is that of BANANAS, on its encoding, and learns ranks. In the code it is one network of four layers of
    1,000 on the adjacency encoding that learns accuracies, which takes half a minute of a core to rank NAS-Bench-101.

    A space is listed and encoded once: the 423,624 cells of NAS-Bench-101 take about a minute and 0.7 GB. One that cannot be listed, or
    has more architectures than `whole`, is sampled anew in each round.

    Args:
        top: architectures predicted best, among which a draw is made.
        whole: architectures up to which a space is listed.
        sample: architectures ranked otherwise, besides those known: half mutations of the ten best observed ones, half random.
    """

    top: int = 100
    whole: int = 500_000
    sample: int = 10_000
    target: str = "rank_gauss"
    refit_share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.top, self.sample) < 1 or self.whole < 0:
            raise ConfigError(f"top and sample must be at least 1, not {self.top} and {self.sample}, and whole not negative")

    def warm_up(self, space: SearchSpace) -> None:
        """Loads libraries; lists and encodes the space."""
        super().warm_up(space)
        if everything(space, self.whole) is not None and hasattr(self.model(), "encoding"):
            _encoded(self.encoding, space, self.whole)

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """`count` of the predicted best, in the order in which they were drawn."""
        if not history.targets()[0]:
            return Proposal(random_archs(space, history, rng, count))
        learned = self.learn(space, history, rng)
        listed = everything(space, self.whole)
        pool = self._sampled(space, history, rng, count) if listed is None else listed
        order = np.argsort(-self._expected(learned.fitted, space, pool, listed is not None), kind="stable")
        order[: self.top] = rng.permutation(order[: self.top])
        drawn = list(islice((pool[i] for i in order if pool[i].id not in history), count))
        if not drawn:
            return Proposal(())
        prediction = learned.fitted.predict(drawn)
        return learned.proposal(drawn, prediction.mean, prediction.std, prediction.mean, {})

    def _sampled(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> list[Arch]:
        known = [*(observation.arch for observation in history.observed.values()), *history.pending.values()]
        return known + candidates(space, history, rng, max(self.sample, count), random_share=0.5)

    def _expected(self, fitted: FittedPredictor, space: SearchSpace, pool: Sequence[Arch], listed: bool) -> Floats:
        """(N,) mean of the predictions."""
        if isinstance(fitted, FittedInformed):
            rest = self._expected(fitted.rest, space, pool, listed)
            return sum((slope * self._expected(model, space, pool, listed) for slope, model in fitted.parts), rest)
        if listed and isinstance(fitted, FittedOnVectors):
            inputs = _encoded(self.encoding, space, self.whole)
            parts = [fitted.fitted.predict(inputs[i : i + _ROWS]) for i in range(0, len(inputs), _ROWS)]
        else:
            parts = [fitted.predict(pool[i : i + _ROWS]) for i in range(0, len(pool), _ROWS)]
        return np.concatenate([part.mean for part in parts])


@lru_cache(maxsize=2)
def _encoded(encoding: str, space: SearchSpace, most: int) -> Inputs:
    """(N, d) all architectures of a space that can be listed."""
    archs = everything(space, most) or []
    return np.concatenate([encode(encoding, space, archs[i : i + _ROWS]) for i in range(0, len(archs), _ROWS)])
