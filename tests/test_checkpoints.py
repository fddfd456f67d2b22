"""Checkpoints in a run folder: noted, given back, and deleted once nobody needs them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import Checkpoint

from raynas.run import checkpoints as module
from raynas.run.checkpoints import Checkpoints

RESULT = {"training_iteration": 3, "time_total_s": 1.5, "valid_accuracy": 0.5}


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Two sessions with two trials each, which have two checkpoints each."""
    for path in (f"tune/s{s}/t{t}/checkpoint_{c}" for s in (1, 2) for t in (1, 2) for c in (1, 2)):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "state").write_text("weights")
    (tmp_path / "tune" / "s1" / "t1" / "result.json").write_text("kept")
    return tmp_path


def left(folder: Path) -> set[str]:
    """The trials that have checkpoints."""
    return {path.parent.relative_to(folder / "tune").as_posix() for path in folder.glob("tune/*/*/checkpoint_*")}


def checkpoint(folder: Path, path: str) -> Any:
    return Checkpoint(str(folder / "tune" / path))


def test_what_is_noted_is_given_back(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(module, "start_from", lambda *arguments: started.append(arguments))
    mine, trial = Checkpoints(str(there)), SimpleNamespace()
    saved = mine.noted(checkpoint(there, "s1/t1/checkpoint_2"), RESULT)
    assert saved == {"path": "tune/s1/t1/checkpoint_2", "training_iteration": 3, "time_total_s": 1.5}
    mine.look([saved])
    assert mine.give_back(trial, saved) is None
    ((given, restored, metrics),) = started
    assert (given, restored.path) == (trial, str(there / "tune/s1/t1/checkpoint_2"))
    assert metrics == {"training_iteration": 3, "time_total_s": 1.5}


def test_one_that_is_gone_is_said_to_be(there: Path) -> None:
    mine, saved = Checkpoints(str(there)), {"path": "tune/s1/t3/checkpoint_1"} | RESULT
    mine.look([saved])
    assert mine.give_back(SimpleNamespace(), saved) == f"its checkpoint {there}/tune/s1/t3/checkpoint_1 is gone, so it begins again"


def test_what_is_released_goes_with_the_next_deletion(there: Path) -> None:
    mine = Checkpoints(str(there))
    mine.release(checkpoint(there, "s1/t1/checkpoint_2"))
    mine.release_saved({"path": "tune/s2/t1/checkpoint_1"})
    mine.release_saved({"path": "tune/s2/gone/checkpoint_1"})
    assert len(left(there)) == 4
    delete = mine.deletion()
    mine.release_saved({"path": "tune/s1/t2/checkpoint_1"})  # not before another deletion
    assert delete is not None
    delete()
    delete()
    assert left(there) == {"s1/t2", "s2/t2"}
    assert (there / "tune" / "s1" / "t1" / "result.json").exists()


def test_a_session_releases_what_it_has_replaced(there: Path) -> None:
    mine = Checkpoints(str(there))
    (there / "tune/s2/t1/checkpoint_3").mkdir()
    mine.release_replaced({"path": "tune/s1/t1/checkpoint_2"}, {"path": "tune/s2/t1/checkpoint_1"})
    delete = mine.deletion()
    assert delete is not None
    delete()
    assert left(there) == {"s1/t2", "s2/t1", "s2/t2"}
    mine.release_replaced({"path": "tune/s2/t1/checkpoint_1"}, {"path": "tune/s2/t1/checkpoint_2"})
    assert mine.deletion() is None  # two are kept
    mine.release_replaced({"path": "tune/s2/t1/checkpoint_2"}, {"path": "tune/s2/t1/checkpoint_3"})
    delete = mine.deletion()
    assert delete is not None
    delete()
    assert sorted(path.name for path in (there / "tune/s2/t1").iterdir()) == ["checkpoint_2", "checkpoint_3"]


def test_checkpoints_of_trials_that_go_on_stay(there: Path) -> None:
    mine = Checkpoints(f"file://{there}")
    mine.release_others("tune", [{"path": "tune/s1/t2/checkpoint_2"}])
    mine.release_others("nowhere", [])
    delete = mine.deletion()
    assert delete is not None
    delete()
    assert left(there) == {"s1/t2"}
