"""Everything of Ray's that is not public and that raynas needs all the same. tests/test_ray_private.py fails where Ray changes it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ray._common.utils import get_ray_address_file
from ray._private import ray_constants, services, worker
from ray._private import utils as ray_utils
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray._private.utils import read_ray_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.train._internal.session import _TrainingResult
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
def forgetful() -> Iterator[None]:
    """Has Tune forget trials that have ended, and write no snapshots of its state, as long as the context lasts.

    It would keep every trial with its results, look at all of them in each turn, and write all of them into a file that we never read;
    so it grew slower and larger with each. The moment of a snapshot, once a turn, is when the trials are forgotten.
    """
    _ExperimentCheckpointManager.sync_up_experiment_state = _forget
    try:
        yield
    finally:
        _ExperimentCheckpointManager.sync_up_experiment_state = _snapshot


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


def ask_for_token() -> None:
    """Has Ray show the token that this user has, if any, to the cluster that is joined next; $RAY_AUTH_MODE counts where it is set.

    `ray.init` does so for a cluster that it finds, not for an address that it is given. A cluster without tokens takes no notice.
    """
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def greet(address: str) -> None:
    """Raises what Ray raises where no cluster answers at HOST:PORT, and AuthenticationError at once where it wants another token."""
    GcsClient(address=address)


@contextmanager
def loopback() -> Iterator[None]:
    """A cluster that is started within it listens on this machine's own address alone, as Ray has it on macOS and Windows."""
    with patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextmanager
def signals_kept() -> Iterator[None]:
    """`ray.init` within it leaves this process its signal handlers, and what a terminal sends to its group does not reach the cluster.

    Ray's handler of SIGTERM, in C++, would abort this process with a stack dump.
    """
    with (
        patch.object(ray_utils, "set_sigterm_handler", lambda handler: None),
        patch.object(ray_constants, "RAY_DISABLE_FAILURE_SIGNAL_HANDLER", True),
        patch.object(services, "ConsolePopen", partial(services.ConsolePopen, process_group=0)),
    ):
        yield


@contextmanager
def ended() -> Iterator[None]:
    """Kills, at its end, what is left then of the processes of the cluster that this process has started and shuts down within it."""
    import psutil  # type: ignore[import-untyped]  # Ray's copy, which is on the path once Ray is loaded

    node = worker._global_node
    raylets = [] if node is None else node.all_processes.get(PROCESS_TYPE_RAYLET, [])
    numbers = {str(raylet.process.pid) for raylet in raylets}
    try:
        yield
    finally:
        left = []
        for process in psutil.process_iter() if numbers else ():
            with suppress(psutil.Error):  # it has ended, or is somebody else's
                if process.environ().get(RAYLET_PID) in numbers:
                    process.kill()
                    left.append(process)
        psutil.wait_procs(left, timeout=5)


RAYLET_PID = "RAY_RAYLET_PID"  # in the environment of all that a raylet starts
