"""BANANAS: Bayesian optimization with neural architecture search (White, Neiswanger, Savani, AAAI 2021, arXiv 1910.11858)."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History
from raynas.model.acquisition import ACQUISITIONS
from raynas.model.candidates import candidates, mutations, random_archs
from raynas.model.encodings import feature_weights
from raynas.model.predictors import make_predictor
from raynas.model.recommend import DEFAULT_ENCODING
from raynas.model.targets import TARGETS
from raynas.registry import resolve
from raynas.spaces import SearchSpace
from searchers.method import Method, Origin, Proposal


@dataclass(frozen=True, kw_only=True)
class Bananas(Method):
    """An ensemble of networks predicts the metric from an encoding; the candidates of highest acquisition are proposed.

    Each fit starts from scratch on everything observed (algorithm 1 of the paper). The defaults differ from the paper's where
    measurements said so: inputs count paths and add cost and shape, candidates descend from the best ten instead of the best,
    and the target is the rank or the logarithm of the error, by turns at random: what one misjudges, the other may not.

    Args:
        encoding: names of raynas.model.encodings.ENCODINGS joined by `+`; `path` is the paper's. For predictors that see vectors.
        predictor, predictor_options: one of raynas.model.predictors.PREDICTORS, or `module:Class`, and its settings.
        target: names of raynas.model.targets.TARGETS joined by `+`, of which each fit draws one.
        acquisition: one of raynas.model.acquisition.ACQUISITIONS; `its` is the paper's.
        pool: candidates over which the acquisition function is maximised; more where they come to less than two for each that is wanted,
            and after more than 1,000 trials, as batches grow, too.
        parents: best observed architectures that are mutated.
        rates: mutation rates, drawn for each candidate.
        random_share: share of the pool that is random instead of mutated.
        climbs: how often the candidates that the model likes best are mutated in turn and half a pool of these added.
        exploration: factor on the deviation of the predictions; an ensemble is too sure of what it has not seen.
        patience: evaluations without a new best after which half of the fits draw the pool at random.
    """

    encoding: str = DEFAULT_ENCODING
    predictor: str = "mlp"
    predictor_options: Mapping[str, Any] = field(default_factory=dict)
    target: str = "rank_gauss+log_error"
    acquisition: str = "its"
    pool: int = 200
    parents: int = 10
    rates: tuple[float, ...] = (1.0, 2.0)
    random_share: float = 0.0
    climbs: int = 2
    exploration: float = 2.0
    patience: int = 30
    recommender: str = "denoised"

    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.pool, self.parents, self.patience) < 1 or not 0 <= self.random_share <= 1 or not self.rates or min(self.rates) <= 0:
            raise ConfigError("pool, parents and patience must be at least 1, random_share between 0 and 1, and rates positive")
        make_predictor(self.predictor, self.predictor_options, self.encoding)
        for name in self.target.split("+"):
            resolve(TARGETS, name, "target")
        resolve(ACQUISITIONS, self.acquisition, "acquisition function")

    def check(self, space: SearchSpace) -> None:
        """Encodes an architecture: what cannot be encoded fails here, not in the run."""
        if hasattr(make_predictor(self.predictor, self.predictor_options, self.encoding), "encoding"):
            feature_weights(self.encoding, space)

    def warm_up(self, space: SearchSpace) -> None:
        """Fits a model to nothing of meaning, for which libraries are loaded."""
        rng = np.random.default_rng(0)
        archs = [space.sample(rng) for _ in range(max(2, self.num_initial))]
        make_predictor(self.predictor, self.predictor_options, self.encoding).fit(space, archs, np.arange(len(archs), dtype=np.float64), 0)

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """The `count` candidates of highest acquisition under a model of everything observed."""
        archs, values = history.targets()
        # Stuck at a local optimum, the climbs below start from anywhere in every second fit or so.
        stuck = len(values) > 0 and len(values) - 1 - int(values.argmax()) >= self.patience and rng.random() < 0.5
        wanted = max(self.pool * self.full_batch(len(history.observed)) // self.refit_every, 2 * count)
        size, random_share = (2 * wanted, 1.0) if stuck else (wanted, self.random_share)
        lineage: dict[str, str] = {}
        pool = candidates(space, history, rng, size, self.parents, self.rates, random_share, lineage)
        if len(pool) < count:  # the last ones of a space that can be listed
            pool += random_archs(space, {*history.observed, *history.pending, *(arch.id for arch in pool)}, rng, count - len(pool))
        if not archs or not pool:
            return Proposal(pool[:count])
        targets = self.target.split("+")
        target = resolve(TARGETS, targets[rng.integers(len(targets))], "target")(values)
        predictor = make_predictor(self.predictor, self.predictor_options, self.encoding)
        fitted = predictor.fit(space, archs, target.values, int(rng.integers(2**31)))
        means = fitted.predict(pool).mean
        known = {*history.observed, *history.pending, *(arch.id for arch in pool)}
        for _ in range(self.climbs):
            best = [pool[i] for i in np.argsort(-means, kind="stable")[: self.parents]]
            new = mutations(space, best, known, rng, wanted // 2, self.rates, lineage)
            if not new:
                break
            known.update(arch.id for arch in new)
            means = np.concatenate([means, fitted.predict(new).mean])
            pool += new
        prediction = fitted.predict(pool).widened(self.exploration)
        score = resolve(ACQUISITIONS, self.acquisition, "acquisition function")(prediction, float(target.values.max()), rng)
        chosen = np.argsort(-score, kind="stable")[:count]
        mean, std = prediction.mean[chosen], prediction.std[chosen]
        deviation = np.abs(target.inverse(mean + std) - target.inverse(mean - std)) / 2  # in units of the metric, which the target is not
        archs = [pool[i] for i in chosen]
        told = zip(archs, score[chosen].tolist(), deviation.tolist(), strict=True)
        origins = [Origin("model", lineage.get(arch.id), *each) for arch, *each in told]
        return Proposal(archs, target.inverse(mean).tolist(), origins=origins)

    def stopgap(self, space: SearchSpace, history: History, rng: np.random.Generator) -> Arch | None:
        """A mutation of one of the best, without asking the model."""
        pool = candidates(space, history, rng, 1, self.parents, self.rates)
        return pool[0] if pool else super().stopgap(space, history, rng)


_PAPER_NETWORK: dict[str, Any] = {
    "members": 5,
    "layers": 10,
    "width": 20,
    "epochs": 150,
    "learning_rate": 0.01,
    "betas": (0.9, 0.99),
    "weight_decay": 0.0,
    "batch_size": 32,
    "schedule": "constant",
    "glorot": True,
    "standardize": False,
}


@dataclass(frozen=True, kw_only=True)
class BananasPaper(Bananas):
    """BANANAS as its authors ran it (arXiv 1910.11858 and its reference code), to compare with.

    Ten layers of 20, Glorot initialisation, mean absolute error of the raw error in percent, Adam (0.01, 0.9, 0.99) on batches of 32
    for 150 epochs; truncated path encoding; independent Thompson sampling over 100 mutations of the best cell.
    """

    encoding: str = "trunc_path"
    predictor_options: Mapping[str, Any] = field(default_factory=lambda: dict(_PAPER_NETWORK))
    target: str = "error_percent"
    pool: int = 100
    parents: int = 1
    refit_share: float = 1.0
    rates: tuple[float, ...] = (1.0,)
    climbs: int = 0
    exploration: float = 1.0
    patience: int = sys.maxsize
