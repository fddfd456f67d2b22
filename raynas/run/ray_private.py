"""Everything of Ray's that is not public and that raynas needs all the same. tests/test_ray_private.py fails where Ray changes it."""

import logging
from collections.abc import Iterator
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
