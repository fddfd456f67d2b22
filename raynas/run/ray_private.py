"""Everything of Ray's that is not public and that raynas needs all the same. tests/test_ray_private.py fails where Ray changes it."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._common.utils import get_ray_address_file
from ray._private.utils import read_ray_address
from ray.train._internal.session import _TrainingResult
from ray.train._internal.storage import StorageContext
from ray.tune.execution.experiment_state import _ExperimentCheckpointManager
from ray.tune.progress_reporter import TrialProgressCallback

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


_REMEMBERED = 100  # trials that have ended, in Tune's memory
_snapshot = _ExperimentCheckpointManager.sync_up_experiment_state


@contextmanager
def unburdened() -> Iterator[None]:
    """Spares Tune's control loop, as long as the context lasts, what would make it slower with each trial or wait for the storage.

    Tune keeps every trial with its results, looks at all of them in each turn, and writes all of them into a snapshot that we never read:
    trials that have ended are forgotten, at the moment of a snapshot, once a turn. And each new trial copies the client of the storage,
    which connects anew: they share one.
    """
    _ExperimentCheckpointManager.sync_up_experiment_state = _forget
    StorageContext.__deepcopy__ = lambda storage, memo: copy.copy(storage)
    try:
        yield
    finally:
        _ExperimentCheckpointManager.sync_up_experiment_state = _snapshot
        del StorageContext.__deepcopy__


def _forget(manager: Any, save_fn: Callable[[], None], force: bool = False, wait: bool = False) -> None:
    """In place of a snapshot by `save_fn`, a method of the TuneController; of the last one, which Tune looks for, before it."""
    controller: Any = save_fn.__self__  # type: ignore[attr-defined]
    ended = controller._stopped_trials, controller._failed_trials
    if sum(map(len, ended)) >= 2 * _REMEMBERED:  # not in each turn
        kept = [trial for trial in controller._trials if any(trial in trials for trials in ended)][-_REMEMBERED:]
        forgotten = set.union(*ended).difference(kept)
        controller._trials[:] = [trial for trial in controller._trials if trial not in forgotten]
        for trials in (*ended, controller._trials_to_cache):
            trials -= forgotten
        callbacks = controller._callbacks._callbacks
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, TrialProgressCallback)]  # prints nothing, keeps all
    if force:
        _snapshot(manager, save_fn, force, wait)


def quieten() -> None:
    """Silences loggers of Ray's that warn of what is meant, or repeat what was said."""
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune.tune").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(UNFINISHED)
