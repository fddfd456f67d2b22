"""Everything of Ray's that is not public and that raynas needs all the same. tests/test_ray_private.py fails where Ray changes it."""

import logging
from pathlib import Path
from typing import Any

from ray._common.utils import get_ray_address_file
from ray._private.utils import read_ray_address
from ray.train._internal.session import _TrainingResult

UNFINISHED = "Trials did not complete"  # how Tune's line about trials that failed begins; each of them has had its own

_QUIET = {
    "ray._private.authentication": "a cluster of one machine needs no token",
    "ray.tune.analysis.experiment_analysis": "results are in our own files, not in Tune's",
}


def left_address() -> tuple[str, Path] | None:
    """The address of the cluster that `ray start` left a pointer to on this machine, and the file that holds it."""
    address = read_ray_address()
    return (address, Path(get_ray_address_file(None))) if address else None


def start_from(trial: Any, checkpoint: Any, metrics: dict[str, Any]) -> None:
    """Has Tune restore a trial that is about to start from `checkpoint`, just as it does after a node was lost."""
    trial._restore_checkpoint_result = _TrainingResult(checkpoint, metrics)


def quieten() -> None:
    """Silences loggers of Ray's that warn of what is meant, or repeat what was said."""
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune.tune").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(UNFINISHED)
