"""Everything private of Ray's that raynas uses is still there, and does what raynas needs. Mend raynas/run/ray_private.py where not."""

import ast
import importlib.util
import inspect
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._common.utils import get_ray_address_file
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
