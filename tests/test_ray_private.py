"""Everything private of Ray's that raynas uses is still there, and does what raynas needs. Mend raynas/run/ray_private.py where not."""

import ast
import copy
import importlib.util
import inspect
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from ray._common.utils import get_ray_address_file
from ray._private import accelerators, ray_constants, services, state, worker
from ray.air.execution._internal import RayActorManager, TrackedActor
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train._internal.session import _TrainingResult
from ray.train._internal.storage import StorageContext
from ray.tune import Callback, Checkpoint, PlacementGroupFactory, RunConfig, Trainable, TuneConfig, Tuner, tune
from ray.tune.callback import CallbackList
from ray.tune.error import _TuneStopTrialError
from ray.tune.execution.experiment_state import _ExperimentCheckpointManager
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import SearchGenerator

from raynas.run import ray_private

ROOT = Path(__file__).resolve().parents[1]


def private_names(path: Path) -> set[str]:
    """What a file imports from modules of Ray's that have a private part in their name, or under a private name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name for name in names if name.startswith("ray.") and any(part.startswith("_") for part in name.split("."))}
    return found


def test_no_other_file_knows_what_is_private_to_ray() -> None:
    files = [path for top in ("raynas", "searchers", "trainables") for path in (ROOT / top).rglob("*.py")]
    users = {path.relative_to(ROOT).as_posix() for path in files if private_names(path)}
    assert users == {"raynas/run/ray_private.py"}


def test_what_ray_start_leaves_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_private.left_address() is None
    pointer = Path(get_ray_address_file(None))
    assert pointer == tmp_path / "ray" / "ray_current_cluster"
    pointer.parent.mkdir()
    pointer.write_text("127.0.0.1:6379\n")
    assert ray_private.left_address() == ("127.0.0.1:6379", pointer)


def test_a_trial_is_restored_from_what_it_is_told_to_start_from(tmp_path: Path) -> None:
    """`Trial` reads the attribute when Tune restores it; the checkpoint and the metrics come out again."""
    trial = object.__new__(Trial)
    trial.run_metadata = SimpleNamespace(checkpoint_manager=SimpleNamespace(latest_checkpoint_result=None))
    trial._restore_checkpoint_result = None
    assert trial.latest_checkpoint_result is None
    checkpoint, metrics = Checkpoint(str(tmp_path)), {"training_iteration": 3, "time_total_s": 1.5}
    ray_private.start_from(trial, checkpoint, metrics)
    result = trial.latest_checkpoint_result
    assert isinstance(result, _TrainingResult)
    assert (result.checkpoint, result.metrics) == (checkpoint, metrics)
    assert trial.checkpoint == checkpoint


def test_trials_that_have_ended_are_forgotten_and_no_snapshot_is_written_or_read() -> None:
    source = inspect.getsource(TuneController)
    assert "self._checkpoint_manager.sync_up_experiment_state(\n            save_fn=self.save_to_dir, force=force, wait=wait" in source
    kinds = {
        name: f"self.{name}: {kind}[Trial] = "
        for name, kind in {"_trials": "List", "_stopped_trials": "Set", "_failed_trials": "Set"}.items()
    }
    assert all(text in source for text in [*kinds.values(), "self._trials_to_cache: Set[Trial] = ", "self._callbacks = CallbackList("])
    progress, mine = TrialProgressCallback(), Callback()

    class Controller:
        def __init__(self) -> None:
            self._trials = [f"t{i}" for i in range(250)]
            self._stopped_trials, self._failed_trials = set(self._trials[:200:2]), set(self._trials[1:200:2])
            self._trials_to_cache, self._waiting = set(self._trials), {"t3": 0.0}
            self._callbacks = CallbackList([mine, progress])

        def save_to_dir(self) -> None:
            raise AssertionError("no snapshot is wanted")

    assert "return ExperimentAnalysis(" in inspect.getsource(tune.run)
    controller, listed, analysis = Controller(), None, tune.ExperimentAnalysis
    original = _ExperimentCheckpointManager.sync_up_experiment_state
    with ray_private.unburdened():
        assert tune.ExperimentAnalysis("folder", trials=[], default_metric="m").trials == []
        listed = controller._trials
        _ExperimentCheckpointManager.sync_up_experiment_state(None, save_fn=controller.save_to_dir)
        assert controller._trials is listed
        assert listed == ["t3", *(f"t{i}" for i in range(100, 250))]  # those under way or tried again, and the newest that have ended
        assert controller._stopped_trials | controller._failed_trials == set(listed[:101])
        assert controller._trials_to_cache == set(listed)
        assert controller._callbacks._callbacks == [mine]
        _ExperimentCheckpointManager.sync_up_experiment_state(None, save_fn=controller.save_to_dir, force=True, wait=True)
    assert (_ExperimentCheckpointManager.sync_up_experiment_state, tune.ExperimentAnalysis) == (original, analysis)


def test_a_new_trial_shares_the_client_of_the_storage() -> None:
    assert "spec = copy.deepcopy(experiment_spec)" in inspect.getsource(SearchGenerator.create_trial_if_possible)
    storage = object.__new__(StorageContext)
    storage.storage_filesystem, storage.trial_dir_name = SubTreeFileSystem("/", LocalFileSystem()), "t1"
    with ray_private.unburdened():
        copied = copy.deepcopy({"storage": storage})["storage"]
    assert copied is not storage
    assert copied.storage_filesystem is storage.storage_filesystem
    assert copied.trial_dir_name == "t1"
    assert not hasattr(StorageContext, "__deepcopy__")


def test_what_repeats_the_errors_of_trials_is_silent() -> None:
    ray_private.quieten()
    ray_private.quieten()
    assert tune.logger.name == "ray.tune.tune"
    assert f'logger.error("{ray_private.UNFINISHED}: %s", incomplete_trials)' in inspect.getsource(tune.run)

    def passes(text: str) -> bool:
        return bool(tune.logger.filter(logging.LogRecord(tune.logger.name, logging.ERROR, "", 0, text, ([1, 2],), None)))

    assert not passes(f"{ray_private.UNFINISHED}: %s")
    assert passes("something else: %s")


@pytest.mark.parametrize("name", ray_private._QUIET)
def test_the_loggers_that_are_quiet_are_modules(name: str) -> None:
    assert importlib.util.find_spec(name) is not None


# Failures


class Keeper:
    """Has nothing tried again."""

    def judge(self, trial: Any, error: BaseException, saving: bool) -> float | None:
        return None

    def report(self, trial: Any) -> None:
        """Trials are free to do so."""

    def overdue(self, running: Any) -> list[tuple[Any, BaseException]]:
        return []


def test_the_keeper_sits_in_the_loop_that_tune_runs() -> None:
    source = inspect.getsource(tune.run)
    assert "runner = TuneController(" in source
    before = tune.TuneController
    with ray_private.kept(Keeper()):
        assert tune.TuneController.func is ray_private.KeptController
    assert tune.TuneController is before is TuneController


@pytest.mark.parametrize("name", [name for name in vars(ray_private.KeptController) if callable(getattr(TuneController, name, None))])
def test_what_the_loop_overrides_has_the_parameters_of_tunes(name: str) -> None:
    if name != "__init__":
        ours, theirs = (list(inspect.signature(getattr(cls, name)).parameters) for cls in (ray_private.KeptController, TuneController))
        assert ours == theirs


def test_the_loop_overrides_what_tune_calls() -> None:
    overridden = {name for name in vars(ray_private.KeptController) if hasattr(TuneController, name)}
    assert overridden >= {
        *("step", "cleanup", "is_finished", "_update_trial_queue", "_actor_started", "_actor_failed", "_process_trial_result"),
        *("_process_trial_failure", "_requeue_trial", "_on_trial_reset", "_maybe_reuse_cached_actor", "__getstate__"),
    }
    failing = inspect.getsource(TuneController._process_trial_failure)
    assert failing.index("trial.handle_error(") < failing.index("trial.should_recover()") < failing.index("self._try_recover(")
    assert "self._requeue_trial(trial)" in inspect.getsource(TuneController._try_recover)
    assert "self._default_result_or_future = ray.get(" in inspect.getsource(Trial)
    stopping = inspect.getsource(TuneController.stop_trial)
    assert stopping.index("except Exception as e") < stopping.index("_process_trial_failure(") < stopping.index("_TuneStopTrialError(")


def test_processes_that_start_are_not_ended_for_those_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowToStart(Trainable):  # type: ignore[misc]  # ray has no types
        """The first process starts at once; trials end faster than any other starts."""

        def setup(self, config: dict[str, Any]) -> None:
            others = list(tmp_path.glob("process-*"))
            (tmp_path / f"process-{os.getpid()}").touch()
            time.sleep(1 if others else 0)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            time.sleep(0.1)
            return {"done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """There is nothing to save."""

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        config = TuneConfig(num_samples=60, max_concurrent_trials=2, reuse_actors=True)
        with ray_private.kept(Keeper()):
            Tuner(SlowToStart, tune_config=config, run_config=RunConfig(storage_path=str(tmp_path / "tune"), verbose=0)).fit()
    finally:
        ray.shutdown()
    assert len(list(tmp_path.glob("process-*"))) == 2


def test_what_ends_a_trial_in_searcher_or_recorder_is_no_failure_of_the_trial() -> None:
    loop = object.__new__(ray_private.KeptController)

    def stop() -> None:
        try:
            raise KeyError("of the recorder")
        except KeyError:
            loop._process_trial_failure(None, _TuneStopTrialError("traceback"))

    with pytest.raises(KeyError, match="of the recorder"):
        stop()


def test_memory_that_is_short_on_a_node_is_the_loss_of_an_actor() -> None:
    """Ray itself ends the run; see `RayActorManager._actor_task_failed`."""
    assert "Caught unexpected exception" in inspect.getsource(RayActorManager._actor_task_failed)
    told: list[tuple[str, Exception]] = []
    actor = TrackedActor(7, on_error=lambda _, error: told.append(("actor", error)))
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda _, error: told.append(("task", error)))
    actors = ray_private._Actors(resource_manager=SimpleNamespace(free_resources=lambda acquired_resource: None))
    actors._live_actors_to_ray_actors_resources[actor] = (None, None)
    actors._actor_task_failed(task, OutOfMemoryError("low on memory"))
    assert [who for who, _ in told] == ["actor", "task"]
    assert all(isinstance(error, RayActorError) and str(error) == "OutOfMemoryError: low on memory" for _, error in told)


def test_numbers_with_which_tune_cannot_count_are_none() -> None:
    report = {"a": 10**400, "b": {"c": -(10**400), "d": 1}, "e": 1j, "f": Decimal("0.5"), "g": "text", "h": True, "i": 0.25}
    expected = {"a": math.inf, "b": {"c": -math.inf, "d": 1}, "e": math.nan, "f": 0.5, "g": "text", "h": True, "i": 0.25}
    assert repr(ray_private._countable(report)) == repr(expected)


def test_a_trial_is_asked_for_elsewhere_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    room: dict[str, dict[str, float]] = {"here": {"CPU": 8.0}, "small": {"CPU": 1.0}, "large": {"CPU": 4.0}}
    monkeypatch.setattr(state, "available_resources_per_node", lambda: room)
    usual = PlacementGroupFactory([{"CPU": 2.0}])
    found = ray_private._elsewhere(usual, "here")
    assert found == PlacementGroupFactory([{"CPU": 2.0}], strategy="STRICT_PACK", _soft_target_node_id="large")
    assert ray_private._elsewhere(usual, None) is usual
    room["large"]["CPU"] = 0.0
    assert ray_private._elsewhere(usual, "here") is usual


def test_what_ray_says_of_deaths_is_not_printed_while_trials_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert "print_to_stdstream" in worker.listen_error_messages.__code__.co_names
    with ray_private.kept(Keeper()):
        for line in ("A worker died or was killed while executing a task", "something else"):
            worker.print_to_stdstream({"lines": [line], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    printed = "".join(capsys.readouterr())
    assert "died" not in printed
    assert "something else" in printed


def test_a_head_that_is_lost_is_outlived_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = list(ray_private._PATIENCE)
    monkeypatch.setenv(keys[0], "7")
    monkeypatch.delenv(keys[1], raising=False)
    ray_private.outlive_head()
    assert [os.environ[key] for key in keys] == ["7", "600"]
    monkeypatch.delenv(keys[1])


def test_a_trial_that_cannot_have_the_process_of_another_is_lost_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune itself gives it up without a word to anybody."""
    told: list[tuple[Any, Exception]] = []
    monkeypatch.setattr(ray_private.KeptController, "_process_trial_failure", lambda _, trial, error: told.append((trial, error)))
    object.__new__(ray_private.KeptController)._on_trial_reset("trial", False)
    ((trial, error),) = told
    assert trial == "trial"
    assert isinstance(error, RayActorError)


def test_a_local_cluster_is_closed_to_others_and_leaves_signals_alone() -> None:
    """In a process of its own: which addresses Ray listens on, what becomes of SIGTERM, and what is left at the end."""
    code = """
import os, signal, time
from pathlib import Path
import ray, psutil
from raynas.run.connect import cluster

got = []
signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
with cluster("local") as joined:
    @ray.remote(num_cpus=1)
    def busy(path):
        Path(path).touch()
        time.sleep(60)
    ref = busy.remote("began")
    while not Path("began").exists():
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    me = psutil.Process()
    everyone = [me, *me.children(recursive=True)]
    names = {p.name() for p in everyone}
    open_at = {c.laddr.ip for p in everyone for c in p.net_connections("inet") if c.status == "LISTEN"}
    groups = {os.getpgid(p.pid) for p in me.children()} - {os.getpgid(0)}
    (mode,) = {p.environ().get("RAY_AUTH_MODE") for p in everyone if p.name() in ("raylet", "gcs_server")}
gone, alive = psutil.wait_procs([p for p in everyone if p != me], timeout=5)
print(repr((got == [signal.SIGTERM], sorted(open_at), len(groups) >= 2, mode, len(alive), {"raylet", "gcs_server"} <= names)))
"""
    with tempfile.TemporaryDirectory(prefix="rp-", dir="/tmp") as folder:
        env = {k: v for k, v in os.environ.items() if k != "RAY_AUTH_MODE"} | {
            "HOME": folder,
            "RAY_TMPDIR": folder,
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    kept, open_at, grouped, mode, alive, all_there = ast.literal_eval(done.stdout.splitlines()[-1])
    assert (kept, grouped, mode, alive, all_there) == (True, True, "token", 0, True)
    assert set(open_at) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_names_that_are_patched_exist() -> None:
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER is False
    assert "ConsolePopen(" in inspect.getsource(services.start_ray_process)
    assert "set_sigterm_handler(sigterm_handler)" in inspect.getsource(worker.init)
    assert "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO" in accelerators.RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO_ENV_VAR


def test_a_token_is_shown_where_there_is_one(tmp_path: Path) -> None:
    code = "import os\nfrom raynas.run import ray_private\nray_private.ask_for_token()\nprint(os.environ.get('RAY_AUTH_MODE'))"
    told = []
    for _ in range(2):
        env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")} | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
        told.append(done.stdout.strip())
        (tmp_path / ".ray").mkdir(exist_ok=True)
        (tmp_path / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    assert told == ["None", "token"]
