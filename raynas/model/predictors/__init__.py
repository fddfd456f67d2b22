"""Performance predictors by name."""

from collections.abc import Mapping
from typing import Any

from raynas.errors import ConfigError
from raynas.model.predictors.base import (
    EnsemblePrediction,
    FittedPredictor,
    GaussianPrediction,
    OnVectors,
    Prediction,
    Predictor,
    VectorModel,
)
from raynas.registry import make

PREDICTORS: dict[str, Any] = {
    "mlp": "raynas.model.predictors.mlp:MLPEnsemble",
    "gp": "raynas.model.predictors.gp:GaussianProcess",
    "dngo": "raynas.model.predictors.dngo:DNGO",
    "bohamiann": "raynas.model.predictors.bohamiann:Bohamiann",
    "graph": "raynas.model.predictors.graph:GraphEnsemble",
    "bonas": "raynas.model.predictors.bonas:GraphRegression",
    "committee": "raynas.model.predictors.committee:Committee",
    "distance-gp": "raynas.model.predictors.distance_gp:DistanceProcess",
}


def make_predictor(name: str, options: Mapping[str, Any] | None = None, encoding: str = "path") -> Predictor:
    """The predictor registered as `name` (or `module:Class`), made with `options`; a model on vectors sees `encoding`.

    Raises:
        UnknownNameError: no such predictor, or it does not take one of the options.
        ConfigError: what `name` makes is no predictor.
    """
    made: Any = make(PREDICTORS, name, options, "predictor")
    if isinstance(made, VectorModel):
        return OnVectors(made, encoding)
    if not callable(getattr(made, "fit", None)):
        raise ConfigError(f"predictor {name!r} must have a method fit(space, archs, targets, seed); {type(made).__name__} has none")
    predictor: Predictor = made
    return predictor


__all__ = [
    "PREDICTORS",
    "EnsemblePrediction",
    "FittedPredictor",
    "GaussianPrediction",
    "OnVectors",
    "Prediction",
    "Predictor",
    "VectorModel",
    "make_predictor",
]
