"""Everything private of Ray's that raynas uses is still there, and does what raynas needs. Mend raynas/run/ray_private.py where not."""

import ast
import importlib.util
import inspect
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._common.utils import get_ray_address_file
from ray._private import accelerators, ray_constants, services, worker
from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint, tune
from ray.tune.experiment import Trial

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
