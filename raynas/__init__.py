"""raynas: neural architecture search with BANANAS on Ray Tune.

Public names are loaded on first use, so that `import raynas` loads neither ray nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raynas import results as results
    from raynas.arch import Arch as Arch
    from raynas.config import RunConfig as RunConfig
    from raynas.errors import ConfigError as ConfigError
    from raynas.errors import OutOfSpaceError as OutOfSpaceError
    from raynas.errors import RaynasError as RaynasError
    from raynas.history import History as History
    from raynas.history import Observation as Observation
    from raynas.model.encodings import ENCODINGS as ENCODINGS
    from raynas.model.predictors import EnsemblePrediction as EnsemblePrediction
    from raynas.model.predictors import GaussianPrediction as GaussianPrediction
    from raynas.outcome import METRICS as METRICS
    from raynas.outcome import Limit as Limit
    from raynas.outcome import Metric as Metric
    from raynas.outcome import Objective as Objective
    from raynas.outcome import Outcome as Outcome
    from raynas.run.summary import Run as Run
    from raynas.search import resume_search as resume_search
    from raynas.search import run_search as run_search
    from raynas.spaces import SPACES as SPACES
    from raynas.spaces import Categorical as Categorical
    from raynas.spaces import ChoiceSpace as ChoiceSpace
    from raynas.spaces import Cost as Cost
    from raynas.spaces import Graph as Graph
    from raynas.spaces import Optional as Optional
    from raynas.spaces import Ordered as Ordered
    from raynas.spaces import Published as Published
    from raynas.spaces import Repeat as Repeat
    from raynas.spaces import SearchSpace as SearchSpace
    from raynas.spaces import Whole as Whole
    from raynas.spaces import make_space as make_space
    from raynas.tables import Table as Table

_HOMES = {
    "Arch": "raynas.arch",
    "Categorical": "raynas.spaces",
    "ChoiceSpace": "raynas.spaces",
    "ConfigError": "raynas.errors",
    "Cost": "raynas.spaces",
    "ENCODINGS": "raynas.model.encodings",
    "EnsemblePrediction": "raynas.model.predictors",
    "GaussianPrediction": "raynas.model.predictors",
    "Graph": "raynas.spaces",
    "History": "raynas.history",
    "Limit": "raynas.outcome",
    "METRICS": "raynas.outcome",
    "Metric": "raynas.outcome",
    "Objective": "raynas.outcome",
    "Observation": "raynas.history",
    "Optional": "raynas.spaces",
    "Ordered": "raynas.spaces",
    "OutOfSpaceError": "raynas.errors",
    "Outcome": "raynas.outcome",
    "Published": "raynas.spaces",
    "RaynasError": "raynas.errors",
    "Repeat": "raynas.spaces",
    "Run": "raynas.run.summary",
    "RunConfig": "raynas.config",
    "SPACES": "raynas.spaces",
    "SearchSpace": "raynas.spaces",
    "Table": "raynas.tables",
    "Whole": "raynas.spaces",
    "make_space": "raynas.spaces",
    "results": "raynas.results",  # the module itself
    "resume_search": "raynas.search",
    "run_search": "raynas.search",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raynas' has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    return home if home.__name__ == f"raynas.{name}" else getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
