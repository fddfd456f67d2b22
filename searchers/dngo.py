"""Bayesian optimisation with DNGO; the network is that of BANANAS's ensemble."""

from dataclasses import dataclass
from typing import ClassVar

from searchers.surrogate import Encoded


@dataclass(frozen=True, kw_only=True)
class DNGO(Encoded):
    """DNGO (Snoek et al., ICML 2015, arXiv 1502.05700): expected improvement under Bayesian linear regression on a network's last layer.

    The settings are those of pybnn, with which BANANAS was compared: refits after every ten results, the adjacency encoding, raw errors.
    Its reference code averaged the predictions to one number, so that they had no say; here they rank the candidates, which are those
    of BANANAS there: mutations of the best cells. A batch foresees itself.

    Args:
        encoding: names of raynas.model.encodings.ENCODINGS joined by `+`.
        predictor_options: settings of raynas.model.predictors.dngo.DNGO, as `evidence` for precisions by marginal likelihood.
    """

    encoding: str = "adjacency"
    predictor: str = "dngo"
    refit_share: float = 1.0

    foresees: ClassVar[bool] = True
