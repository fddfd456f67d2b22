"""Performance predictors by name."""

from typing import Any

from raynas.model.predictors.base import FittedPredictor, Prediction, Predictor
from raynas.registry import make

PREDICTORS: dict[str, Any] = {"mlp": "raynas.model.predictors.mlp:MLPEnsemble", "gp": "raynas.model.predictors.gp:GaussianProcess"}


def make_predictor(name: str, options: dict[str, Any] | None = None) -> Predictor:
    """The predictor registered as `name` (or `module:Class`), made with `options`.

    Raises:
        UnknownNameError: no such predictor, or it does not take one of the options.
    """
    predictor: Predictor = make(PREDICTORS, name, options, "predictor")
    return predictor


__all__ = ["PREDICTORS", "FittedPredictor", "Prediction", "Predictor", "make_predictor"]
