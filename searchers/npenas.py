"""NPENAS, evolution guided by a graph network; torch carries it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from searchers.surrogate import Encoded

_GIN = {"members": 1, "layers": 3, "width": 32, "hidden": 32, "layer": "gin", "positions": False, "dropout": 0.0}


@dataclass(frozen=True, kw_only=True)
class NPENAS(Encoded):
    """NPENAS-BO (Wei et al., arXiv 2003.12857): Thompson sampling chooses among a hundred offspring of the best ten.

    There each of them has ten; here the better have more, as with BANANAS. A graph isomorphism network predicts mean and deviation,
    trained by the likelihood. Its settings are those published, but for batches: all results at once instead of sixteen.
    """

    predictor: str = "graph"
    target: str = "error_percent"
    acquisition: str = "its"
    pool: int = 100
    rates: tuple[float, ...] = (1.0,)
    refit_share: float = 1.0

    own_options: ClassVar[Mapping[str, Any]] = _GIN | {"loss": "nll"}


@dataclass(frozen=True, kw_only=True)
class NPENASNP(NPENAS):
    """NPENAS-NP, its variant whose network predicts no deviation: the offspring of highest prediction are evaluated."""

    acquisition: str = "mean"

    own_options: ClassVar[Mapping[str, Any]] = _GIN
