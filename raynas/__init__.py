"""raynas: neural architecture search with BANANAS on Ray Tune.

Public names are loaded on first use, so that `import raynas` loads neither ray nor torch.
"""

import importlib
from typing import Any

_HOMES = {
    "Arch": "raynas.arch",
    "ENCODINGS": "raynas.model.encodings",
    "History": "raynas.history",
    "RaynasError": "raynas.errors",
    "RunConfig": "raynas.config",
    "SPACES": "raynas.spaces",
    "SearchSpace": "raynas.spaces",
    "Table": "raynas.tables",
    "make_space": "raynas.spaces",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raynas' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
