"""BONAS, whose surrogate is a graph network with a Bayesian regression on top; torch and numpy carry it."""

from dataclasses import dataclass

from searchers.surrogate import Encoded


@dataclass(frozen=True, kw_only=True)
class BONAS(Encoded):
    """BONAS (Shi et al., NeurIPS 2020, arXiv 1911.09336): of candidates by evolution, those of highest upper confidence bound.

    The bound is the mean and half a deviation, as published, of raynas.model.predictors.bonas. Not here: the training of several
    candidates at once with shared weights. In the comparison with BANANAS an ensemble of graph networks stood for it.

    Args:
        predictor_options: settings of raynas.model.predictors.bonas.GraphRegression.
    """

    predictor: str = "bonas"
    target: str = "log_error"
    acquisition: str = "ucb"
    pool: int = 100
    refit_share: float = 1.0
