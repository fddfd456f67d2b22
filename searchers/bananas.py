"""BANANAS: Bayesian optimization with neural architecture search (White, Neiswanger, Savani, AAAI 2021, arXiv 1910.11858)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from raynas.errors import ConfigError
from raynas.history import History
from raynas.model import budgets
from raynas.model.encodings import unweighted
from raynas.model.predictors.base import OnVectors
from raynas.spaces import SearchSpace
from searchers.method import Proposal
from searchers.several import SeveralObjectives
from searchers.surrogate import Learned, drawn_target

_ALL = 10**9  # observed architectures, of which there are fewer
_SURVEYED = 2000  # candidates, more where there are more than 1,000 trials


@dataclass(frozen=True, kw_only=True)
class Bananas(SeveralObjectives):
    """An ensemble of networks predicts the metric from an encoding; the candidates of highest acquisition are proposed.

    Each fit starts from scratch on everything observed (algorithm 1 of the paper). The defaults differ from the paper's where
    measurements said so: inputs count paths and add cost and shape, candidates descend from the best ten instead of the best,
    and the target is the rank or the logarithm of the error, by turns at random: what one misjudges, the other may not.
    Deviations count twice (`exploration`): an ensemble is too sure of what it has not seen. `its` is the paper's acquisition function;
    with more than `num_initial` trials under way each proposal follows one member of the ensemble instead (`follows`).

    After `survey_after` evaluations without a new best, what leads on from the best ten is used up: fits then look around everything that
    is known, bad or good, and choose by mean + deviation among many more candidates. Their model sees the parts of the encoding without
    weights, which help while little is known, and of the default's targets log errors, which do not end at the best observed as ranks do.

    Where trials were stopped early, the model learns from all budgets (raynas.model.budgets), if it sees vectors and there is no prior.

    The encoding `path` is the paper's.

    Args:
        survey_after: with one objective; None: never.
    """

    target: str = "rank_gauss+log_error"
    acquisition: str = "its"
    climbs: int = 2
    exploration: float = 2.0
    patience: int | None = 30
    survey_after: int | None = 200
    recommender: str = "denoised"

    all_budgets: ClassVar[bool] = True
    follows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.survey_after is not None and self.survey_after < 1:
            raise ConfigError(f"survey_after must be at least 1, or nothing for never, not {self.survey_after}")

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        # Of many that are under way, a part began before the best was known.
        due = self.survey_after is not None and self.stale(history) >= max(self.survey_after, 2 * len(history.pending))
        if due and history.objective.single:
            return self.surveying().propose(space, history, rng, count)
        return super().propose(space, history, rng, count)

    def surveying(self) -> "Bananas":
        """The search that takes over."""
        return replace(
            self,
            encoding=unweighted(self.encoding),
            target="log_error" if "log_error" in self.target.split("+") else self.target,
            acquisition="ucb",
            exploration=2.0,
            parents=_ALL,
            pool=max(self.pool, _SURVEYED),
            climbs=0,
            patience=None,
            survey_after=None,
        )

    def learn(self, space: SearchSpace, history: History, rng: np.random.Generator) -> Learned:
        model, known = self.model(), budgets.rows(history) if self.all_budgets else None
        if known is None or history.priors or not isinstance(model, OnVectors):
            return super().learn(space, history, rng)
        target = drawn_target(self.target, known.values, rng)
        fitted, forecasts = budgets.fit(model, space, known, target.values, int(rng.integers(2**31)))
        return Learned(fitted, target, forecasts)


@dataclass(frozen=True, kw_only=True)
class BananasPaper(Bananas):
    """BANANAS as its authors ran it (arXiv 1910.11858 and its reference code), to compare with.

    Ten layers of 20, Glorot initialisation, mean absolute error of the raw error in percent, Adam (0.01, 0.9, 0.99) on batches of 32
    for 150 epochs; truncated path encoding; independent Thompson sampling over 100 mutations of the best cell.
    """

    encoding: str = "trunc_path"
    target: str = "error_percent"
    pool: int = 100
    parents: int = 1
    refit_share: float = 1.0
    rates: tuple[float, ...] = (1.0,)
    climbs: int = 0
    exploration: float = 1.0
    patience: int | None = None
    survey_after: int | None = None

    several: ClassVar[bool] = False
    all_budgets: ClassVar[bool] = False
    follows: ClassVar[bool] = False

    own_options: ClassVar[Mapping[str, Any]] = {
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
