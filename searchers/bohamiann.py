"""Bayesian optimisation with BOHAMIANN; the networks are those of BANANAS's ensemble."""

from dataclasses import dataclass

from searchers.surrogate import Encoded


@dataclass(frozen=True, kw_only=True)
class Bohamiann(Encoded):
    """BOHAMIANN (Springenberg et al., NIPS 2016): expected improvement under Bayesian networks drawn by Hamiltonian Monte Carlo.

    The settings are those of pybnn, with which BANANAS was compared (see raynas.model.predictors.bohamiann for the chains), the adjacency
    encoding and raw errors. Its reference code averaged the predictions to one number, so that they had no say; here they rank the
    candidates, which are those of BANANAS there: mutations of the best cells.

    Args:
        encoding: names of raynas.model.encodings.ENCODINGS joined by `+`.
        predictor_options: settings of raynas.model.predictors.bohamiann.Bohamiann.
    """

    encoding: str = "adjacency"
    predictor: str = "bohamiann"
    refit_share: float = 1.0
