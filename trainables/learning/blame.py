"""Errors in code of the user's own, as one line that says where."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raynas.errors import ConfigError, RaynasError


@contextmanager
def blamed(what: str, kind: type[RaynasError] = ConfigError) -> Iterator[None]:
    """Within it any error but our own and lack of memory becomes one of this kind: "`what` raised ValueError in line 3 of mine.py: ..."."""
    try:
        yield
    except (RaynasError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a user's code does
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split())
        raise kind(f"{what} raised {type(error).__name__} in line {where.lineno} of {where.filename}: {reason}") from error
