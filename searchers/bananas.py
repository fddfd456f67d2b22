"""BANANAS: Bayesian optimization with neural architecture search (White, Neiswanger, Savani, AAAI 2021, arXiv 1910.11858)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raynas.model.encodings import feature_weights
from raynas.model.predictors import Predictor, make_predictor
from raynas.model.recommend import DEFAULT_ENCODING
from raynas.spaces import SearchSpace
from searchers.surrogate import Surrogate


@dataclass(frozen=True, kw_only=True)
class Bananas(Surrogate):
    """An ensemble of networks predicts the metric from an encoding; the candidates of highest acquisition are proposed.

    Each fit starts from scratch on everything observed (algorithm 1 of the paper). The defaults differ from the paper's where
    measurements said so: inputs count paths and add cost and shape, candidates descend from the best ten instead of the best,
    and the target is the rank or the logarithm of the error, by turns at random: what one misjudges, the other may not.
    Deviations count twice (`exploration`): an ensemble is too sure of what it has not seen. `its` is the paper's acquisition function.

    Args:
        encoding: names of raynas.model.encodings.ENCODINGS joined by `+`; `path` is the paper's. For predictors that see vectors.
        predictor, predictor_options: one of raynas.model.predictors.PREDICTORS, or `module:Class`, and its settings.
    """

    encoding: str = DEFAULT_ENCODING
    predictor: str = "mlp"
    predictor_options: Mapping[str, Any] = field(default_factory=dict)
    target: str = "rank_gauss+log_error"
    acquisition: str = "its"
    climbs: int = 2
    exploration: float = 2.0
    patience: int | None = 30
    recommender: str = "denoised"

    def model(self) -> Predictor:
        """The predictor, which sees the encoding if it sees vectors."""
        return make_predictor(self.predictor, self.predictor_options, self.encoding)

    def check(self, space: SearchSpace) -> None:
        """Encodes an architecture: what cannot be encoded fails here, not in the run."""
        if hasattr(self.model(), "encoding"):
            feature_weights(self.encoding, space)


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
    patience: int | None = None
