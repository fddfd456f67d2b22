"""Search by a model of what is observed: the model, how candidates are made, and an acquisition function among them.

BANANAS and what it was compared with that learns are this loop with other parts.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History, Prior
from raynas.model.acquisition import ACQUISITIONS
from raynas.model.candidates import candidates, mutations, random_archs
from raynas.model.encodings import Encoder
from raynas.model.predictors import make_predictor
from raynas.model.predictors.base import FittedPredictor, Floats, OnVectors, Prediction, Predictor, check_space
from raynas.model.predictors.informed import Informed
from raynas.model.recommend import DEFAULT_ENCODING
from raynas.model.targets import TARGETS, Target
from raynas.registry import resolve
from raynas.spaces import SearchSpace
from searchers.method import Method, Origin, Proposal

_MODELS: WeakKeyDictionary[Prior, list[tuple[Any, FittedPredictor]]] = WeakKeyDictionary()  # each with method and space it was made for
_SIFTED = 50  # candidates, or twice as many as are wanted, whose proxies are computed
_SHORTLIST = 5  # candidates for each that is wanted, among which a batch is chosen one after the other


class Learned(NamedTuple):
    """A model that has seen all results, and what it was asked to predict."""

    fitted: FittedPredictor
    target: Target
    forecasts: Mapping[str, float] = MappingProxyType({})  # see `Proposal`

    @property
    def best(self) -> float:
        """The best of the targets."""
        return float(self.target.values.max())

    def proposal(self, archs: Sequence[Arch], mean: Floats, std: Floats, score: Floats, lineage: Mapping[str, str]) -> Proposal:
        """These m architectures; mean and deviation of what is predicted of them and their score, (m,) each; by ids, their parents."""
        back = self.target.inverse
        deviation = np.abs(back(mean + std) - back(mean - std)) / 2  # in units of the metric, which the target is not
        told = zip(archs, score.tolist(), deviation.tolist(), strict=True)
        origins = [Origin("model", lineage.get(arch.id), *each) for arch, *each in told]
        return Proposal(archs, back(mean).tolist(), origins=origins, forecasts=dict(self.forecasts))


def learned(
    predictor: Predictor, space: SearchSpace, archs: Sequence[Arch], values: Floats, target: str, rng: np.random.Generator
) -> Learned:
    """The predictor fitted to values (n,) of n architectures, of which it learns one of the targets that `target` joins by `+`."""
    learns = drawn_target(target, values, rng)
    return Learned(predictor.fit(space, archs, learns.values, int(rng.integers(2**31))), learns)


def drawn_target(target: str, values: Floats, rng: np.random.Generator) -> Target:
    """One of the targets that `target` joins by `+`, of values (n,)."""
    names = target.split("+")
    drawn: Target = resolve(TARGETS, names[rng.integers(len(names))], "target")(values)
    return drawn


@dataclass(frozen=True, kw_only=True)
class Learning(Method):
    """A model predicts the metric. Each fit starts from scratch.

    Args:
        target: names of raynas.model.targets.TARGETS joined by `+`, of which each fit draws one.
    """

    target: str = "identity"

    learns: ClassVar[bool] = True
    informed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model()
        for name in self.target.split("+"):
            resolve(TARGETS, name, "target")

    @abstractmethod
    def model(self) -> Predictor:
        """What is fitted; raises a RaynasError where a setting of it is not allowed."""

    def warm_up(self, space: SearchSpace) -> None:
        """Fits a model to nothing of meaning, for which libraries are loaded."""
        rng = np.random.default_rng(0)
        archs = [space.sample(rng) for _ in range(10)]
        self.model().fit(space, archs, np.arange(len(archs), dtype=np.float64), 0)

    def learn(self, space: SearchSpace, history: History, rng: np.random.Generator) -> Learned:
        """Fits the model to all results, of which there must be one."""
        archs, values = history.targets()
        models = [self._model_of(prior, space) for prior in history.priors]
        return learned(Informed(self.model(), models) if models else self.model(), space, archs, values, self.target, rng)

    def _model_of(self, prior: Prior, space: SearchSpace) -> FittedPredictor:
        """The model fitted to the ranks of what another search has found, once in a process."""
        key = self, space
        models = _MODELS.setdefault(prior, [])
        for made_for, model in models:
            if made_for == key:
                return model
        targets = TARGETS["rank_gauss"](prior.values).values
        models.append((key, self.model().fit(space, prior.archs, targets, 0)))
        return models[-1][1]


@dataclass(frozen=True, kw_only=True)
class Surrogate(Learning):
    """The candidates of highest acquisition under the model are proposed.

    Args:
        acquisition: one of raynas.model.acquisition.ACQUISITIONS.
        pool: candidates over which the acquisition function is maximised; more where they come to less than two for each that is wanted,
            and after more than 1,000 trials, as batches grow, too.
        parents: best observed architectures that are mutated.
        rates: mutation rates, drawn for each candidate.
        random_share: share of the pool that is random instead of mutated.
        climbs: how often the candidates that the model likes best are mutated in turn and half a pool of these added; unless 0, in a
            wide search once more for each doubling of the trials under way, which are mutated, too.
        exploration: factor on the deviation of the predictions.
        patience: evaluations without a new best after which half of the fits draw the pool at random; None: never.
    """

    acquisition: str = "ei"
    pool: int = 200
    parents: int = 10
    rates: tuple[float, ...] = (1.0, 2.0)
    random_share: float = 0.0
    climbs: int = 0
    exploration: float = 1.0
    patience: int | None = None

    foresees: ClassVar[bool] = False
    """Whether, of a batch, each is chosen as if those before it and those pending had come out as expected, which takes a joint normal
    distribution: they say nothing new, and so the deviation near them falls (GP-BUCB: Desautels, Krause, Burdick, JMLR 2014)."""

    follows: ClassVar[bool] = False
    """Whether, in a wide search, `its` draws all candidates together, once for each proposal, and without `exploration`: of an
    ensemble, a proposal is what one member likes best. Workers differ then as members do, who agree on what is bad (parallel Thompson
    sampling: Kandasamy, Krishnamurthy, Schneider, Poczos, AISTATS 2018, arXiv 1705.09236)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least = min(self.pool, self.parents, 1 if self.patience is None else self.patience)
        if least < 1 or not 0 <= self.random_share <= 1 or not self.rates or min(self.rates) <= 0:
            raise ConfigError("pool, parents and patience must be at least 1, random_share between 0 and 1, and rates positive")
        resolve(ACQUISITIONS, self.acquisition, "acquisition function")

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """The `count` candidates of highest acquisition under a model of everything observed."""
        lineage: dict[str, str] = {}
        pool = self.pool_of(space, history, rng, count, lineage)
        if not history.targets()[0] or not pool:
            return Proposal(pool[:count])
        learned = self.learn(space, history, rng)
        fitted, best = learned.fitted, learned.best
        return self.best_of(self.extend(space, history, rng, count, pool, fitted, best, lineage), learned, history, rng, count, lineage)

    def best_of(
        self, pool: list[Arch], learned: Learned, history: History, rng: np.random.Generator, count: int, lineage: Mapping[str, str]
    ) -> Proposal:
        """The `count` of highest acquisition in the pool."""
        fitted, best = learned.fitted, learned.best
        prediction = fitted.predict(pool)
        if self.follows and self.acquisition == "its" and self._under_way(history):
            chosen, score = _followed(prediction.sample(min(count, len(pool)), rng))
            prediction = prediction.widened(self.exploration)
        else:
            prediction = prediction.widened(self.exploration)
            score = self.score(prediction, best, rng)
            chosen = np.argsort(-score, kind="stable")
        if self.foresees and (count > 1 or history.pending):
            chosen = self._foreseen(fitted, pool, chosen[: _SHORTLIST * count], list(history.pending.values()), best, rng)
        chosen = chosen[:count]
        return learned.proposal([pool[i] for i in chosen], prediction.mean[chosen], prediction.std[chosen], score[chosen], lineage)

    def pool_of(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int, lineage: dict[str, str]) -> list[Arch]:
        """As `begin`, but at least `count` of them, as long as a space that can be listed has so many."""
        pool = self.begin(space, history, rng, count, lineage)
        if len(pool) < count:
            pool += random_archs(space, {*history.observed, *history.pending, *(arch.id for arch in pool)}, rng, count - len(pool))
        return pool

    def score(self, prediction: Prediction, best: float, rng: np.random.Generator) -> Floats:
        """(m,) the acquisition function."""
        score: Floats = resolve(ACQUISITIONS, self.acquisition, "acquisition function")(prediction, best, rng)
        return score

    def begin(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int, lineage: dict[str, str]) -> list[Arch]:
        """Candidates before there is a model; `lineage` is told their parents, by ids."""
        # Stuck at a local optimum, the climbs below start from anywhere in every second fit or so.
        stuck = self.patience is not None and self.stale(history) >= self.patience and rng.random() < 0.5
        wanted = self._wanted(history, count)
        size, random_share = (2 * wanted, 1.0) if stuck else (wanted, self.random_share)
        return candidates(space, history, rng, size, self.parents, self.rates, random_share, lineage)

    def stale(self, history: History) -> int:
        """Evaluations since the best one."""
        archs, values = history.targets()
        return len(archs) - 1 - int(values.argmax()) if archs else 0

    def extend(
        self,
        space: SearchSpace,
        history: History,
        rng: np.random.Generator,
        count: int,
        pool: list[Arch],
        fitted: FittedPredictor,
        best: float,
        lineage: dict[str, str],
    ) -> list[Arch]:
        """The pool and what more the model leads to; `best`: of the targets that it learned."""
        return self.climb(space, history, rng, count, pool, lambda archs: fitted.predict(archs).mean, lineage)

    def climb(
        self,
        space: SearchSpace,
        history: History,
        rng: np.random.Generator,
        count: int,
        pool: list[Arch],
        like: Callable[[Sequence[Arch]], Floats],
        lineage: dict[str, str],
    ) -> list[Arch]:
        """The pool and mutations of what is liked best, there and under way, as `climbs` says; `like`: how much each of n is, (n,)."""
        if not self.climbs:
            return pool
        # In a wide search the best observed are old, and of what trains fast: the way from there to what is good is longer.
        pending = self._under_way(history)
        known = {*history.observed, *history.pending, *(arch.id for arch in pool)}
        seen = pending + pool
        means = like(seen)
        for _ in range(self.climbs + len(pending).bit_length()):
            liked = [seen[i] for i in np.argsort(-means, kind="stable")[: self.parents]]
            new = mutations(space, liked, known, rng, self._wanted(history, count) // 2, self.rates, lineage)
            if not new:
                break
            known.update(arch.id for arch in new)
            means = np.concatenate([means, like(new)])
            seen = seen + new
        return seen[len(pending) :]

    def _under_way(self, history: History) -> list[Arch]:
        """What is pending in a wide search, one with more trials under way than the initial design has; nothing in another."""
        return list(history.pending.values()) if len(history.pending) > self.num_initial else []

    def _wanted(self, history: History, count: int) -> int:
        return max(self.pool * self.full_batch(len(history.observed)) // self.refit_every, 2 * count)

    def _foreseen(
        self,
        fitted: FittedPredictor,
        pool: Sequence[Arch],
        shortlist: NDArray[np.int64],
        pending: Sequence[Arch],
        best: float,
        rng: np.random.Generator,
    ) -> NDArray[np.int64]:
        """The shortlist, indices of the pool, in the order in which a batch takes them."""
        left: Any = fitted.predict([*(pool[i] for i in shortlist), *pending]).widened(self.exploration)
        for i in range(len(pending)):
            left = left.foreseen(len(shortlist) + i)
        order: list[int] = []
        while len(order) < len(shortlist):
            score = self.score(left, best, rng)[: len(shortlist)]
            score[order] = -np.inf
            order.append(int(score.argmax()))
            left = left.foreseen(order[-1])
        return shortlist[order]

    def stopgap(self, space: SearchSpace, history: History, rng: np.random.Generator) -> Arch | None:
        """A mutation of one of the best, without asking the model."""
        pool = candidates(space, history, rng, 1, self.parents, self.rates)
        return pool[0] if pool else super().stopgap(space, history, rng)


def _followed(draws: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Of draws (s, m) of m candidates, the best of each that none before it took: (s,) indices, and (m,) what was drawn of them there."""
    chosen: list[int] = []
    score = np.full(draws.shape[1], -np.inf)
    for drawn in draws:
        left = drawn.copy()
        left[chosen] = -np.inf
        chosen.append(int(left.argmax()))
        score[chosen[-1]] = drawn[chosen[-1]]
    return np.array(chosen), score


@dataclass(frozen=True, kw_only=True)
class ByPredictor(Learning):
    """The model is a predictor by name, which learns from an encoding of architectures, or from their graphs.

    Args:
        encoding: names of raynas.model.encodings.ENCODINGS joined by `+`. For predictors that see vectors.
        predictor, predictor_options: one of raynas.model.predictors.PREDICTORS, or `module:Class`, and its settings; what the method sets
            of its own predictor holds where they say nothing else.
    """

    encoding: str = DEFAULT_ENCODING
    predictor: str = "mlp"
    predictor_options: Mapping[str, Any] = field(default_factory=dict)

    own_options: ClassVar[Mapping[str, Any]] = {}  # of the predictor that the method has unless told otherwise

    def model(self) -> Predictor:
        """The predictor, which sees the encoding if it sees vectors."""
        return self.seeing(self.encoding)

    def seeing(self, encoding: str) -> Predictor:
        """The predictor with another encoding."""
        own = self.own_options if self.predictor == type(self).predictor else {}
        return make_predictor(self.predictor, {**own, **self.predictor_options}, encoding)

    def check(self, space: SearchSpace) -> None:
        """What the predictor cannot read fails here, not in the run."""
        check_space(self.model(), space)


@dataclass(frozen=True, kw_only=True)
class Encoded(ByPredictor, Surrogate):
    """Candidates of highest acquisition, by a predictor by name.

    Args:
        proxies: more inputs of a predictor that sees vectors, which may take their time (see raynas.model.proxies): of the candidates
            only those that come first without them have theirs computed.
    """

    proxies: Encoder | None = None

    def seeing(self, encoding: str) -> Predictor:
        """As `ByPredictor.seeing`; it sees the proxies, too."""
        predictor = super().seeing(encoding)
        if self.proxies is None:
            return predictor
        if not isinstance(predictor, OnVectors):
            raise ConfigError(f"proxies are inputs of predictors that see vectors, such as mlp, and {self.predictor!r} does not")
        return replace(predictor, proxies=self.proxies)

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        if self.proxies is None:
            return super().propose(space, history, rng, count)
        first = replace(self, proxies=None).propose(space, history, rng, max(_SIFTED, 2 * count))
        if not first.archs or not history.targets()[0]:
            return replace(first, archs=first.archs[:count])
        lineage = {arch.id: origin.parent for arch, origin in zip(first.archs, first.origins, strict=False) if origin.parent}
        return self.best_of(list(first.archs), self.learn(space, history, rng), history, rng, count, lineage)
