"""Which architecture to choose in the end, given what a search knows. n: architectures.

The best observed one is often the luckiest, so where results are noisy a model should have a say.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from raynas.arch import Arch
from raynas.history import History
from raynas.model.encodings import encode, feature_weights
from raynas.model.predictors.gp import GaussianProcess
from raynas.model.targets import TARGETS
from raynas.spaces.base import SearchSpace

Recommender = Callable[[SearchSpace, History, Any], Arch | None]  # (space, history, settings of the method) -> an evaluated architecture

DEFAULT_ENCODING = "trunc_path_counts*0.15+scalars"
_JUDGED = 300  # best results from which `denoised` chooses: the time of a Gaussian process grows with their third power
_ENOUGH = 20  # finished results, unless the method begins with more random ones, without which no model is asked


def observed(space: SearchSpace, history: History, settings: Any = None) -> Arch | None:
    """The best observed architecture; None before any result."""
    best = history.best()
    return None if best is None else best.arch


def denoised(space: SearchSpace, history: History, settings: Any = None) -> Arch | None:
    """The evaluated architecture with the best mean of observed and predicted log error.

    The predictions are those of a Gaussian process of the ranks, which bad architectures cannot stretch; it learns from the results how
    noisy they are, and by marginal likelihood how much the weights of the encoding count. What it takes for noise may be the
    architecture's own: half of it counts as such. Without enough results it is the best observed one. Only what keeps the limits is chosen.
    """
    known = history.known()
    within = np.flatnonzero(known.excess == 0)
    values = known.vectors[within, 0] if len(within) else np.empty(0)
    best = np.argsort(-values, kind="stable")[:_JUDGED]
    archs, values = [known.archs[i] for i in within[best]], values[best]
    finished = [i for i, arch in enumerate(archs) if history.observed[arch.id].status == "finished"]
    if len(finished) < 2 * getattr(settings, "num_initial", _ENOUGH // 2) or known.vectors.shape[1] > 1:
        return observed(space, history)
    encoding = getattr(settings, "encoding", DEFAULT_ENCODING)
    inputs, weights, ranks = encode(encoding, space, archs), feature_weights(encoding, space), TARGETS["rank_gauss"](values)
    powers = (0.0, 0.5, 1.0, 1.5) if weights.min() < 1 else (1.0,)
    fits = [GaussianProcess().fit(inputs, ranks.values, 0, weights**power) for power in powers]
    predicted = ranks.inverse(max(fits, key=lambda fitted: fitted.evidence).predict(inputs).mean)
    merit = TARGETS["log_error"](np.stack([values, predicted])).values.mean(axis=0)  # (n,)
    chosen: Arch = archs[max(finished, key=lambda i: float(merit[i]))]
    return chosen


RECOMMENDERS: dict[str, Recommender] = {"observed": observed, "denoised": denoised}
LIBRARIES = {"denoised": "sklearn.gaussian_process"}
"""What a recommender loads on its first use, by name."""
