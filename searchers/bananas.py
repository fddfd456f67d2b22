"""BANANAS: Bayesian optimization with neural architecture search (White, Neiswanger, Savani, AAAI 2021, arXiv 1910.11858)."""

import sys
from typing import Any

import numpy as np

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History
from raynas.model.acquisition import ACQUISITIONS
from raynas.model.candidates import candidates, mutations
from raynas.model.encodings import encode, feature_weights
from raynas.model.predictors import Prediction, make_predictor
from raynas.model.predictors.gp import GaussianProcess
from raynas.model.targets import TARGETS
from raynas.registry import resolve
from searchers.base import ArchSearcher, Proposal

_JUDGED = 300  # best results from which `recommend` chooses: the time of a Gaussian process grows with their third power


class BananasSearch(ArchSearcher):
    """An ensemble of networks predicts the metric from an encoding; the candidates of highest acquisition are proposed.

    Each fit starts from scratch on everything observed (algorithm 1 of the paper). The defaults differ from the paper's where
    measurements said so: inputs count paths and add cost and shape, candidates descend from the best ten instead of the best,
    and the target is the rank or the logarithm of the error, by turns at random: what one misjudges, the other may not.

    Args:
        encoding: names of raynas.model.encodings.ENCODINGS joined by `+`; `path` is the paper's.
        predictor, predictor_options: one of raynas.model.predictors.PREDICTORS and its settings.
        target: names of raynas.model.targets.TARGETS joined by `+`, of which each fit draws one.
        acquisition: one of raynas.model.acquisition.ACQUISITIONS; `its` is the paper's.
        pool: candidates over which the acquisition function is maximised.
        parents: best observed architectures that are mutated.
        rates: mutation rates, drawn for each candidate.
        random_share: share of the pool that is random instead of mutated.
        climbs: how often the candidates that the model likes best are mutated in turn and half a pool of these added.
        exploration: factor on the deviation among the members; an ensemble is too sure of what it has not seen.
        patience: evaluations without a new best after which half of the fits draw the pool at random.
    """

    learns = True

    def __init__(
        self,
        *args: Any,
        encoding: str = "trunc_path_counts*0.15+scalars",
        predictor: str = "mlp",
        predictor_options: dict[str, Any] | None = None,
        target: str = "rank_gauss+log_error",
        acquisition: str = "its",
        pool: int = 200,
        parents: int = 10,
        rates: tuple[float, ...] = (1.0, 2.0),
        random_share: float = 0.0,
        climbs: int = 2,
        exploration: float = 2.0,
        patience: int = 30,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        if min(pool, parents, patience) < 1 or not 0 <= random_share <= 1 or not rates or min(rates) <= 0:
            raise ConfigError("pool, parents and patience must be at least 1, random_share between 0 and 1, and rates positive")
        self.encoding, self.weights = encoding, feature_weights(encoding, self.space)  # what cannot be encoded fails here, not in the run
        self.predictor = make_predictor(predictor, predictor_options)
        self.targets = [resolve(TARGETS, name, "target") for name in target.split("+")]
        self.acquisition = resolve(ACQUISITIONS, acquisition, "acquisition function")
        self.climbs, self.exploration, self.patience = climbs, exploration, patience
        self.pool, self.parents, self.rates, self.random_share = pool, parents, tuple(rates), random_share

    def propose(self, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """The `count` candidates of highest acquisition under a model of everything observed."""
        archs, values = history.targets()
        # Stuck at a local optimum, the climbs below start from anywhere in every second fit or so.
        stuck = len(values) > 0 and len(values) - 1 - int(values.argmax()) >= self.patience and rng.random() < 0.5
        size, random_share = (2 * self.pool, 1.0) if stuck else (self.pool, self.random_share)
        pool = candidates(self.space, history, rng, size, self.parents, self.rates, random_share)
        if not archs or not pool:
            return Proposal(pool[:count])
        target = self.targets[rng.integers(len(self.targets))](values)
        fitted = self.predictor.fit(encode(self.encoding, self.space, archs), target.values, int(rng.integers(2**31)), self.weights)
        members = fitted.predict(encode(self.encoding, self.space, pool)).members  # (k, m)
        known = {*history.observed, *history.pending, *(arch.id for arch in pool)}
        for _ in range(self.climbs):
            best = [pool[i] for i in np.argsort(-members.mean(axis=0), kind="stable")[: self.parents]]
            new = mutations(self.space, best, known, rng, self.pool // 2, self.rates)
            if not new:
                break
            known.update(arch.id for arch in new)
            members = np.concatenate([members, fitted.predict(encode(self.encoding, self.space, new)).members], axis=1)
            pool += new
        mean = members.mean(axis=0)
        prediction = Prediction(mean + self.exploration * (members - mean))
        score = self.acquisition(prediction, float(target.values.max()), rng)
        chosen = np.argsort(-score, kind="stable")[:count]
        return Proposal([pool[i] for i in chosen], target.inverse(prediction.mean[chosen]).tolist())

    def recommend(self) -> Arch | None:
        """The evaluated architecture with the best mean of observed and predicted log error: the best observed one is often the luckiest.

        The predictions are those of a Gaussian process of the ranks, which bad architectures cannot stretch; it learns from the results how
        noisy they are, and by marginal likelihood how much the weights of the encoding count. What it takes for noise may be the
        architecture's own: half of it counts as such. Without enough results it is the best observed one.
        """
        archs, values = self.history.targets()
        best = np.argsort(-values, kind="stable")[:_JUDGED]
        archs, values = [archs[i] for i in best], values[best]
        finished = [i for i, arch in enumerate(archs) if self.history.observed[arch.id].status == "finished"]
        if len(finished) < 2 * self.num_initial:
            return super().recommend()
        inputs, ranks = encode(self.encoding, self.space, archs), TARGETS["rank_gauss"](values)
        powers = (0.0, 0.5, 1.0, 1.5) if self.weights.min() < 1 else (1.0,)
        fits = [GaussianProcess().fit(inputs, ranks.values, 0, self.weights**power) for power in powers]
        predicted = ranks.inverse(max(fits, key=lambda fitted: fitted.evidence).predict(inputs).mean)
        merit = TARGETS["log_error"](np.stack([values, predicted])).values.mean(axis=0)  # (n,)
        return archs[max(finished, key=lambda i: float(merit[i]))]

    def stopgap(self, history: History, rng: np.random.Generator) -> Arch | None:
        """A mutation of one of the best, without asking the model."""
        pool = candidates(self.space, history, rng, 1, self.parents, self.rates)
        return pool[0] if pool else super().stopgap(history, rng)


class BananasPaperSearch(BananasSearch):
    """BANANAS as its authors ran it (arXiv 1910.11858 and its reference code), to compare with.

    Ten layers of 20, Glorot initialisation, mean absolute error of the raw error in percent, Adam (0.01, 0.9, 0.99) on batches of 32
    for 150 epochs; truncated path encoding; independent Thompson sampling over 100 mutations of the best cell.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        network = {
            "members": 5,
            "layers": 10,
            "width": 20,
            "epochs": 150,
            "learning_rate": 0.01,
            "betas": (0.9, 0.99),
            "weight_decay": 0.0,
            "batch_size": 32,
        }
        plain = {"schedule": "constant", "glorot": True, "standardize": False}
        paper: dict[str, Any] = {
            "encoding": "trunc_path",
            "predictor_options": network | plain,
            "target": "error_percent",
            "pool": 100,
            "parents": 1,
            "refit_share": 1.0,
            "rates": (1.0,),
            "climbs": 0,
            "exploration": 1.0,
            "patience": sys.maxsize,
        }
        super().__init__(*args, **(paper | options))
