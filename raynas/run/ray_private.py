"""Everything of Ray's that is not public and that raynas needs all the same. tests/test_ray_private.py fails where Ray changes it."""

import copy
import logging
import math
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from numbers import Number, Real
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol
from unittest.mock import patch

import ray
from ray._common.utils import get_ray_address_file
from ray._private import ray_constants, services, state, worker
from ray._private import utils as ray_utils
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.node import Node
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray._private.utils import read_ray_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train._internal.session import _TrainingResult
from ray.train._internal.storage import StorageContext
from ray.tune import PlacementGroupFactory
from ray.tune import tune as tune_module
from ray.tune.error import _TuneStopTrialError
from ray.tune.execution.experiment_state import _ExperimentCheckpointManager
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback

from raynas.outcome import as_number

UNFINISHED = "Trials did not complete"  # how Tune's line about trials that failed begins; each of them has had its own

_QUIET = {
    "ray._private.authentication": "that a cluster has a token, or has none, is its owner's choice",
    "ray.tune.analysis.experiment_analysis": "results are in our own files, not in Tune's",
}
_SILENT = ("ray.tune.execution.tune_controller",)  # tells failures with tracebacks; the recorder tells them, or they end the run
_DEATHS = re.compile(
    r"A worker died or was killed|worker\(s\) were killed|The node with node id|Raylet is terminated"
)  # told by who lost a trial
_PATIENCE = {  # s; read by Ray when a driver joins a cluster
    "RAY_gcs_server_request_timeout_seconds": "30",  # then a call to a head that is gone raises
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # not before that: then Ray ends the whole process, within C++
}
_LOOK = 0.5  # s between two looks for trials that hang


def outlive_head() -> None:
    """Has a head that is lost raise an error in this process, which would be ended otherwise. To be called before a cluster is joined."""
    for key, seconds in _PATIENCE.items():
        os.environ.setdefault(key, seconds)


def left_address() -> tuple[str, Path] | None:
    """The address of the cluster that `ray start` left a pointer to on this machine, and the file that holds it."""
    address = read_ray_address()
    return (address, Path(get_ray_address_file(None))) if address else None


def start_from(trial: Any, checkpoint: Any, metrics: dict[str, Any]) -> None:
    """Has Tune restore a trial that is about to start from `checkpoint`, just as it does after a node was lost."""
    trial._restore_checkpoint_result = _TrainingResult(checkpoint, metrics)


_REMEMBERED = 100  # trials that have ended, in Tune's memory


@contextmanager
def unburdened() -> Iterator[None]:
    """Spares Tune's control loop, as long as the context lasts, what would make it slower with each trial or wait for the storage.

    Tune keeps every trial with its results, looks at all of them in each turn, and writes all of them into a snapshot that we never read:
    trials that have ended are forgotten, at the moment of a snapshot, once a turn. And each new trial copies the client of the storage,
    which connects anew: they share one. At the end Tune would wait for a last snapshot, read it, and fail where it cannot.
    """
    with (
        patch.object(
            tune_module, "ExperimentAnalysis", lambda *args, **options: SimpleNamespace(trials=[])
        ),  # nobody reads what `fit` returns
        patch.object(_ExperimentCheckpointManager, "sync_up_experiment_state", _forget),
        patch.object(StorageContext, "__deepcopy__", lambda storage, memo: copy.copy(storage), create=True),
    ):
        yield


def _forget(manager: Any, save_fn: Callable[[], None], force: bool = False, wait: bool = False) -> None:
    """In place of a snapshot by `save_fn`, a method of the TuneController."""
    controller: Any = save_fn.__self__  # type: ignore[attr-defined]
    ended = controller._stopped_trials, controller._failed_trials
    if sum(map(len, ended)) >= 2 * _REMEMBERED:  # not in each turn
        newest = [trial for trial in controller._trials if any(trial in trials for trials in ended)][-_REMEMBERED:]
        forgotten = set.union(*ended).difference(newest, controller._waiting)
        controller._trials[:] = [trial for trial in controller._trials if trial not in forgotten]
        for trials in (*ended, controller._trials_to_cache):
            trials -= forgotten
        callbacks = controller._callbacks._callbacks
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, TrialProgressCallback)]  # prints nothing, keeps all


def quieten() -> None:
    """Silences loggers of Ray's that warn of what is meant, or repeat what was said."""
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("ray.tune.tune").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(UNFINISHED)


def ask_for_token() -> None:
    """Has Ray show the token that this user has, if any, to the cluster that is joined next; $RAY_AUTH_MODE counts where it is set.

    `ray.init` does so for a cluster that it finds, not for an address that it is given. Not to be asked for by a cluster without tokens:
    this process would then refuse what that cluster asks of it, and no actor would live.
    """
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def greet(address: str) -> None:
    """Raises what Ray raises where no cluster answers at HOST:PORT, and AuthenticationError at once where it wants another token."""
    GcsClient(address=address)


@contextmanager
def loopback() -> Iterator[None]:
    """A cluster that is started within it listens on this machine's own address alone, as Ray has it on macOS and Windows.

    And it is without the server of the dashboard, which reports on the use of Ray alone where there is no dashboard, and takes a second.
    """
    with patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False), patch.object(Node, "start_api_server", lambda node, **options: None):
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
    """Kills, at its end, what is left then of the processes of the cluster that this process has started and shuts down within it.

    They are not asked first to end, which takes a second: nobody needs them any more.
    """
    import psutil  # type: ignore[import-untyped]  # Ray's copy, which is on the path once Ray is loaded

    node = worker._global_node
    raylets = [] if node is None else node.all_processes.get(PROCESS_TYPE_RAYLET, [])
    numbers = {str(raylet.process.pid) for raylet in raylets}
    below = [process for number in numbers for process in _below(psutil, int(number))]  # whose titles hide what their environment was
    kill = Node.kill_all_processes
    try:
        with patch.object(Node, "kill_all_processes", lambda node, **options: kill(node, **options | {"allow_graceful": False})):
            yield
    finally:
        left = below
        for process in psutil.process_iter() if numbers else ():
            with suppress(psutil.Error):  # it has ended, or is somebody else's
                left += [process] if process.environ().get(RAYLET_PID) in numbers else []
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)


def _below(psutil: Any, number: int) -> list[Any]:
    try:
        found: list[Any] = psutil.Process(number).children(recursive=True)
    except psutil.Error:  # it has ended
        return []
    return found


RAYLET_PID = "RAY_RAYLET_PID"  # in the environment of all that a raylet starts


class Keeper(Protocol):
    """Decides what becomes of trials that fail; see raynas.run.retries."""

    def judge(self, trial: Any, error: BaseException, saving: bool, /) -> float | None:
        """In how many seconds a trial that ended with `error` is tried again; None: it has failed for good."""

    def report(self, trial: Any, /) -> None:
        """A trial has started, or reported."""

    def overdue(self, running: Collection[Any], /) -> Collection[tuple[Any, BaseException]]:
        """Those of `running` that have hung, each with the error that it ends with."""


@contextmanager
def kept(keeper: Keeper) -> Iterator[None]:
    """Has `keeper` decide about the trials that fail in whatever `Tuner.fit` runs meanwhile; Ray's own words on them are not printed."""
    say = worker.print_to_stdstream

    def told(data: dict[str, Any], *args: Any, **options: Any) -> None:
        if not (data["pid"] == "raylet" and any(_DEATHS.search(line) for line in data["lines"])):
            say(data, *args, **options)

    with (
        patch.object(tune_module, "TuneController", partial(KeptController, keeper=keeper)),
        patch.object(worker, "print_to_stdstream", told),
    ):
        yield


class _Actors(RayActorManager):  # type: ignore[misc]  # ray has no types
    """Takes whatever is no exception of the trial's own, as memory that is short or an object that is lost, for the loss of its actor.

    In Ray it ends the run: "Caught unexpected exception".
    """

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, (RayActorError, RayTaskError)):
            lost = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
            lost.__cause__ = exception
            exception = lost
        super()._actor_task_failed(tracked_actor_task, exception)


class KeptController(TuneController):  # type: ignore[misc]  # ray has no types
    """Tune's loop, where a `Keeper` decides whether and when a trial that failed is tried again, and which have hung.

    A trial that waits for its next try holds no resources; to Tune it has failed until then. Processes that start are not ended for
    others that are free.
    """

    def __init__(self, *args: Any, keeper: Keeper, **options: Any) -> None:
        super().__init__(*args, **options)
        self._actor_manager: Any = _Actors(resource_manager=self._actor_manager._resource_manager)
        self._keeper = keeper
        self._delay = 0.0  # s, of the trial that is failing now
        self._waiting: dict[Any, float] = {}  # trial -> time of its next try
        self._killed: dict[Any, BaseException] = {}  # trial that has hung -> why its actor dies
        self._failed_on: dict[Any, str | None] = {}  # trial -> id of the node where it failed
        self._usual: dict[Any, Any] = {}  # trial that failed -> what it asks for but for the place
        self._next_look = 0.0
        self._lost = False  # whether the head of the cluster is gone

    def __getstate__(self) -> dict[str, Any]:
        """What Tune writes as JSON to restore a run, which it is never asked to do here."""
        ours = ("_keeper", "_waiting", "_killed", "_failed_on", "_usual")
        return {key: value for key, value in super().__getstate__().items() if key not in ours}

    def is_finished(self) -> bool:
        return not self._waiting and bool(super().is_finished())

    def step(self) -> None:
        try:
            self._look_after()
            super().step()
        except RayError:
            self._lost = True
            raise

    def _look_after(self) -> None:
        now = time.monotonic()
        for trial in [trial for trial, due in self._waiting.items() if due <= now]:
            del self._waiting[trial]
            usual = self._usual.setdefault(trial, trial.placement_group_factory)
            trial.placement_group_factory = _elsewhere(usual, self._failed_on.pop(trial, None))
            super()._requeue_trial(trial)
        if now >= self._next_look:
            self._next_look = now + _LOOK
            self._end_hung()
        if self._waiting and not self._trial_to_actor:
            time.sleep(0.1)  # Tune would not wait at all where nothing runs

    def cleanup(self) -> None:
        if self._lost:  # each request to a head that is gone takes its time, and there is nothing left to stop
            self.end_experiment_callbacks()
        else:
            super().cleanup()

    def _end_hung(self) -> None:
        """Kills the actors of trials that have hung; Tune notices it by itself. Those that wait for resources have no actor."""
        live = self._actor_manager._live_actors_to_ray_actors_resources
        running = {trial: live[actor][0] for trial, actor in self._trial_to_actor.items() if actor in live}
        for trial, error in self._keeper.overdue(running):
            self._killed[trial] = error
            ray.kill(running[trial])

    def _update_trial_queue(self, blocking: bool = False, timeout: int = 600) -> bool:
        return bool(super()._update_trial_queue(blocking and not self._waiting, timeout))

    def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
        """Not for a trial whose own process is starting.

        Tune would end that process and start another for the next trial: without end where trials end faster than processes start.
        """
        live = self._actor_manager._live_actors_to_ray_actors_resources
        starting = self._trial_to_actor.get(trial) in live and trial not in self._resetting_trials
        return not starting and bool(super()._maybe_reuse_cached_actor(trial))

    def _actor_started(self, tracked_actor: Any, log: str = "STARTED") -> None:
        self._keeper.report(self._actor_to_trial[tracked_actor])
        super()._actor_started(tracked_actor, log)

    def _process_trial_result(self, trial: Any, result: dict[str, Any]) -> Any:
        self._keeper.report(trial)
        return super()._process_trial_result(trial, _countable(result))

    def _actor_failed(self, tracked_actor: Any, exception: Exception) -> None:
        trial = self._actor_to_trial[tracked_actor]
        self._failed_on[trial] = _node_of(trial)  # not known any more when the failure is processed
        super()._actor_failed(tracked_actor, exception)

    def _process_trial_failure(self, trial: Any, exception: BaseException) -> None:
        if isinstance(exception, _TuneStopTrialError):
            raise  # no failure of the trial: what searcher, scheduler or recorder raised when it was told of its end
        if trial.is_finished():  # told twice, by its actor and by its task
            return
        self._resetting_trials.discard(trial)
        if trial.status == Trial.PENDING and trial in self._trial_to_actor:  # while it took over the actor of another
            self._set_trial_status(trial, Trial.RUNNING)
            self._unstage_trial_with_resources(trial)
        exception = self._killed.pop(trial, exception)
        trial._default_result_or_future = None  # asked of the actor, and waited for whenever the last result is read
        delay = self._keeper.judge(trial, exception, trial.is_saving or trial.is_restoring)
        trial.max_failures, self._delay = (0, 0.0) if delay is None else (-1, delay)
        if trial.temporary_state.ray_actor is not None:
            self._failed_on[trial] = _node_of(trial)
        super()._process_trial_failure(trial, exception)

    def _requeue_trial(self, trial: Any) -> None:
        self._waiting[trial] = time.monotonic() + self._delay

    def _on_trial_reset(self, trial: Any, success: bool) -> None:
        if success:
            super()._on_trial_reset(trial, success)
        else:  # Tune would forget it
            self._process_trial_failure(trial, RayActorError(error_msg="the process of another trial could not be used for it"))


def _countable(value: Any) -> Any:
    """A report without numbers that Tune, which takes means of all, fails at: infinite what no float holds, NaN what is not real."""
    if isinstance(value, dict):
        return {key: _countable(inner) for key, inner in value.items()}
    if not isinstance(value, Number):
        return value
    if not isinstance(value, Real):  # decimal and complex ones
        number = as_number(value)
        return math.nan if number is None else number
    try:
        float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]  # all but typeshed orders real numbers
    return value


def _node_of(trial: Any) -> str | None:
    """The id of the node where a trial runs, or ran until now; None where it is not known."""
    actor = trial.temporary_state.ray_actor
    return None if actor is None else state.actors(actor._actor_id.hex()).get("Address", {}).get("NodeID")


def _elsewhere(request: Any, node: str | None) -> Any:
    """`request` for resources, with a preference for the node that has most room, but for `node`; where none has, as it is."""
    needs, free = request.required_resources, state.available_resources_per_node()
    fit = [name for name, room in free.items() if name != node and all(room.get(kind, 0.0) >= n for kind, n in needs.items())]
    if node is None or len(request.bundles) != 1 or not fit:
        return request
    best = max(fit, key=lambda name: sum(free[name].get(kind, 0.0) for kind in ("CPU", "GPU")))
    return PlacementGroupFactory(request.bundles, strategy="STRICT_PACK", _soft_target_node_id=best)
