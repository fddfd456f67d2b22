"""What a run folder from a stranger cannot do: load code or pickles, or lead out of itself."""

import json
import os
import pickle
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_rows import started
from stranger import ARCH, SAVED, no_ray, write_run
from test_recorder import ARCHS, Run

from raynas import ConfigError, results, search, storage, train, trust
from raynas.cli import BAD_USAGE, INTERRUPTED
from raynas.run.checkpoints import Checkpoints
from raynas.run.connect import carried
from raynas.run.session import Session
from raynas.run.settings import resumed_run
from raynas.run.store import RunStore
from trainables.learning.model_file import load_model

__all__ = ["no_ray"]


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether the module `planted` has been loaded, which would be a stranger's."""
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w').close()\ndef thing(*a, **b): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "planted", raising=False)
    return (tmp_path / "loaded").exists


@pytest.mark.parametrize(
    "config",
    [
        {"space": "planted:thing"},
        {"trainable": "planted:thing"},
        {"searcher": "planted:thing"},
        {"scheduler": "planted:thing"},
        {"dataset": "planted:thing", "trainable": "train"},
        {"searcher": "bananas", "searcher_options": {"predictor": "planted:thing"}},
        {"searcher": "bananas", "searcher_options": {"targets": ["rank", "planted:thing"]}},
        {"space_options": {"deep": [{"er": "planted:"}]}},
        {"trainable_options": {"predictor": "planted://x"}},
    ],
)
def test_a_configuration_loads_no_code(
    config: dict[str, Any], tmp_path: Path, planted: Callable[[], bool], no_ray: list[Session], capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", config)
    assert search.main(["--resume", run]) == BAD_USAGE
    error = capsys.readouterr().err
    assert error.startswith(f"error: {run}/config.json names code of other modules (")
    assert error.endswith("or pass --trust\n")
    assert error.count("\n") == 1
    assert not planted()
    assert not no_ray


def test_the_message_says_what_to_repeat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", {"space": "subprocess:Popen"})
    assert search.main(["--resume", run]) == BAD_USAGE
    said = f"{run}/config.json names code of other modules (space = 'subprocess:Popen'), and was not written by you on this machine"
    assert capsys.readouterr().err == f"error: {said}; if you trust it repeat --space subprocess:Popen, or pass --trust\n"


def test_code_that_is_repeated_or_trusted_is_loaded(tmp_path: Path, planted: Callable[[], bool]) -> None:
    run = write_run(tmp_path / "run", {"scheduler": "planted:thing", "searcher_options": {"predictor": "planted:thing"}})
    repeated = {"scheduler": "planted:thing", "searcher_options": {"predictor": "planted:thing"}}
    assert resumed_run(run, repeated, own=False) == resumed_run(run, {}, own=True)
    with pytest.raises(ConfigError, match=r"repeat --set searcher_options\.predictor=planted:thing, or"):
        resumed_run(run, {"scheduler": "planted:thing"}, own=False)
    with pytest.raises(ConfigError, match="repeat --scheduler planted:thing, or"):
        resumed_run(run, repeated | {"scheduler": "planted:other"}, own=False)


def test_a_stranger_does_not_choose_the_cluster(tmp_path: Path) -> None:
    """It would be shown this user's token, and what it answers would be unpickled."""
    run = write_run(tmp_path / "run", {"address": "evil.example:6379"})
    with pytest.raises(ConfigError, match=r"names a Ray cluster \('evil\.example:6379'\).* give --address yourself"):
        resumed_run(run, {}, own=False)
    assert resumed_run(run, {"address": "local"}, own=False).address == "local"
    assert resumed_run(run, {}, own=True).address == "evil.example:6379"


def test_a_run_of_ones_own_needs_neither_and_stays_it(tmp_path: Path, no_ray: list[Session]) -> None:
    run = str(tmp_path / "run")
    given = ["--space", "toy_space:ToySpace", "--searcher", "random", "--trainable", "own_trials:Plain", "--trials", "3"]
    assert search.main([*given, "--out", run]) == INTERRUPTED
    assert trust.is_own(run)
    assert search.main(["--resume", run, "--trials", "4"]) == INTERRUPTED
    assert trust.is_own(run)
    assert [session.own for session in no_ray] == [True, True]


def test_repeating_makes_no_run_ones_own_but_trusting_does(tmp_path: Path, no_ray: list[Session]) -> None:
    config = {"trainable": "own_trials:Plain", "trainable_options": {}, "max_epochs": 2}
    run = write_run(tmp_path / "run", config)
    assert search.main(["--resume", run, "--trainable", "own_trials:Plain"]) == INTERRUPTED
    assert not trust.is_own(run)
    assert search.main(["--resume", run]) == BAD_USAGE
    assert search.main(["--resume", run, "--trust"]) == INTERRUPTED
    assert trust.is_own(run)
    assert [session.own for session in no_ray] == [False, True]


def test_a_signature_holds_for_one_configuration_and_one_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = str(tmp_path)
    storage.write_json(run, "config.json", trust.signed({"config": {"space": "lab:Space", "seed": 0.1, "limit": float("nan")}}))
    assert trust.is_own(run)
    changed = storage.read_json(run, "config.json")
    changed["config"]["space"] = "evil:Space"
    storage.write_json(run, "config.json", changed)
    assert not trust.is_own(run)
    storage.write_json(run, "config.json", trust.signed(changed))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "somebody else's"))
    assert not trust.is_own(run)
    for signature in (None, 5, "", "é", []):
        storage.write_json(run, "config.json", changed | {"signature": signature})
        assert not trust.is_own(run)


def test_the_key_is_made_once_and_for_the_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert trust.key() is None
    made = trust.key(make=True)
    assert made is not None
    assert len(made) == 64
    assert (trust.key(), trust.key(make=True)) == (made, made)
    assert stat.S_IMODE((tmp_path / "raynas" / "key").stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "raynas") == ["key"]
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert trust.key(make=True) not in (None, made)
    assert (tmp_path / "home" / ".config" / "raynas" / "key").exists()


def test_where_no_key_can_be_kept_runs_are_not_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    assert trust.signed({"config": {}}) == {"config": {}}


# -- what raynas.train reads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"space": "planted:thing"}, {"space": "nasbench201", "space_options": {"x": "planted:thing"}}])
def test_a_best_architecture_loads_no_code(
    options: dict[str, Any], tmp_path: Path, planted: Callable[[], bool], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "best.json").write_text(json.dumps({"arch": {"space": "nasbench201", "arch": ARCH}} | options))
    for arch in (tmp_path, tmp_path / "best.json"):
        assert train.main(["--arch", str(arch), "--out", str(tmp_path / "out")]) == BAD_USAGE
        assert "names code of other modules" in capsys.readouterr().err
    assert not planted()


def test_a_best_architecture_beside_a_run_of_ones_own_is_believed_as_far_as_that_goes(tmp_path: Path) -> None:
    run, own = str(tmp_path), "toy_space:ToySpace"
    storage.write_json(run, "config.json", trust.signed({"config": {"space": own}}))
    assert trust.vouched(run, {"space": own, "space_options": None})
    assert not trust.vouched(run, {"space": "planted:thing", "space_options": None})
    storage.write_json(run, "config.json", {"config": {"space": own}})
    assert not trust.vouched(run, {"space": own})


@pytest.mark.parametrize("config", [{"space": "planted:thing"}, {"dataset": "planted:thing"}])
def test_a_training_that_goes_on_loads_no_code(
    config: dict[str, Any], tmp_path: Path, planted: Callable[[], bool], capsys: pytest.CaptureFixture[str]
) -> None:
    stored = {"arch": json.dumps({"space": "nasbench201", "arch": ARCH}), "dataset": "digits"} | config
    (tmp_path / "config.json").write_text(json.dumps({"config": stored}))
    assert train.main(["--resume", str(tmp_path)]) == BAD_USAGE
    assert "names code of other modules" in capsys.readouterr().err
    assert not planted()


def test_a_model_loads_no_code(tmp_path: Path, planted: Callable[[], bool]) -> None:
    model = {
        "space": "planted:thing",
        "arch": {},
        "classes": 10,
        "image_size": 8,
        "image_channels": 1,
        "network": {},
        "mean": [],
        "std": [],
    }
    (tmp_path / "model.json").write_text(json.dumps(model))
    with pytest.raises(ConfigError, match="names code of other modules"):
        load_model(tmp_path)
    assert not planted()


def test_a_run_that_is_known_to_another_loads_no_code(tmp_path: Path, planted: Callable[[], bool], no_ray: list[Session]) -> None:
    other = write_run(tmp_path / "other", {"trainable": "planted:thing"})
    given = ["--searcher", "random", "--trials", "3", "--set", "trainable_options.seconds_per_report=1"]
    assert search.main([*given, "--out", str(tmp_path / "run"), "--warm-start", other]) == INTERRUPTED
    assert not planted()
    assert len(no_ray) == 1


# -- paths ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../other/tune/s1/t1/checkpoint_1",
        "tune/../../other/checkpoint_1",
        "tune/s1/../checkpoint_1",
        "tune/./t1/checkpoint_1",
        "/etc/tune/s1/t1",
        "tune//t1/checkpoint_1",
        "errors/s1/t1/checkpoint_1",
        "tune",
        "tune/s1/t1/checkpoint_1/deeper",
        "s3://bucket/t1/checkpoint_1",
        "",
    ],
)
def test_a_row_does_not_lead_out_of_the_run(path: str, tmp_path: Path, no_ray: list[Session], capsys: pytest.CaptureFixture[str]) -> None:
    beside = tmp_path / "other" / "tune" / "s1" / "t1" / "checkpoint_1"
    beside.mkdir(parents=True)
    run = write_run(tmp_path / "run", checkpoint=json.dumps(SAVED | {"path": path}))
    assert search.main(["--resume", run]) == BAD_USAGE
    assert "leads to no checkpoint of this run" in capsys.readouterr().err
    assert beside.exists()
    assert not no_ray


@pytest.mark.parametrize("name", ["../t1", "a/b", "..", "", "t\n1"])
def test_names_of_trials_are_names(name: str, tmp_path: Path, no_ray: list[Session], capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", trial_id=name)
    assert search.main(["--resume", run]) == BAD_USAGE
    assert f"a trial is called {name!r}" in capsys.readouterr().err


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "beside" / "checkpoint_1").mkdir(parents=True)
    (tmp_path / "run" / "tune" / "s1").mkdir(parents=True)
    (tmp_path / "run" / "tune" / "s1" / "t1").symlink_to(tmp_path / "beside")
    (tmp_path / "run" / "tune" / "s2").symlink_to(tmp_path)
    mine = Checkpoints(str(tmp_path / "run"))
    mine.look([SAVED])
    assert "symbolic link" in str(mine.give_back(SimpleNamespace(), SAVED))
    mine.release_saved(SAVED)
    mine.release_others("tune", [])
    deletion = mine.deletion()
    assert deletion is not None
    deletion()
    assert (tmp_path / "beside" / "checkpoint_1").exists()


def test_a_run_in_a_folder_that_is_reached_by_a_link_is_one_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "disk" / "tune" / "s1" / "t1" / "checkpoint_1").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    mine = Checkpoints(str(tmp_path / "run"))
    mine.release_saved(SAVED)
    deletion = mine.deletion()
    assert deletion is not None
    deletion()
    assert not (tmp_path / "disk" / "tune" / "s1" / "t1" / "checkpoint_1").exists()


@pytest.mark.parametrize("own", [False, True])
def test_pickled_checkpoints_are_for_their_owner(own: bool, tmp_path: Path) -> None:
    folder = tmp_path / SAVED["path"]
    folder.mkdir(parents=True)
    (folder / "_dict_checkpoint.pkl").write_bytes(b"")
    mine, given = Checkpoints(str(tmp_path)), SimpleNamespace()
    mine.own = own
    mine.look([SAVED])
    problem = mine.give_back(given, SAVED)
    assert (problem is None) == own
    assert hasattr(given, "_restore_checkpoint_result") == own
    assert own or "holds pickled objects, and the run is not your own" in str(problem)


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [False, True])
def test_a_search_that_goes_on_executes_what_a_checkpoint_holds_only_if_told_to(trusted: bool, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", checkpoint=json.dumps(SAVED))
    saved = tmp_path / "run" / SAVED["path"]
    saved.mkdir(parents=True)
    (saved / "_dict_checkpoint.pkl").write_bytes(pickle.dumps(Malicious(tmp_path / "executed")))
    command = [sys.executable, "-m", "raynas.search", "--resume", run, *["--trust"] * trusted]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "executed").exists() == trusted
    assert ("holds pickled objects, and the run is not your own" in done.stderr) == (not trusted)
    statuses = {row["trial_id"]: row["status"] for row in results.read(run).trials.to_pylist()}
    assert len(statuses) == 5
    assert statuses["t1"] == ("failed" if trusted else "finished")  # it is no checkpoint of that trial's


# -- what a cluster that is joined is given --------------------------------------------------------------------------------


def test_modules_travel_with_what_they_import_from_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_a.py").write_text("import mine_b, mine_c.inner\n")
    (tmp_path / "mine_b.py").touch()
    (tmp_path / "mine_c").mkdir()
    for name in ("__init__.py", "inner.py"):
        (tmp_path / "mine_c" / name).touch()
    (tmp_path / "unused.py").touch()
    __import__("mine_a")
    assert carried({"mine_a", "json", "numpy.linalg", "raynas.search", "nowhere"}) == [
        str(tmp_path / name) for name in ("mine_a.py", "mine_b.py", "mine_c")
    ]
    assert carried(set()) == []


def test_commands_that_are_printed_can_be_pasted(tmp_path: Path, no_ray: list[Session], capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a run")
    assert search.main(["--resume", run]) == INTERRUPTED
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "--resume" in line]
    assert shlex.split(line.rpartition("Go on with: ")[2]) == ["python", "-m", "raynas.search", "--resume", run]


def test_a_checkpoint_that_is_not_trusted_yet_is_not_lost(tmp_path: Path) -> None:
    """The next session may be told to trust it; until then, or a newer one, the row points to it."""
    run, arch = tmp_path / "run", ARCHS[0].to_config()
    saved = {"path": "tune/s1/t0/checkpoint_1", "training_iteration": 1, "time_total_s": 1.0}
    (run / saved["path"]).mkdir(parents=True)
    (run / saved["path"] / "_dict_checkpoint.pkl").touch()
    store = RunStore(str(run))
    store.add_started(started(0, arch_id=arch["id"], arch=json.dumps(arch), checkpoint=json.dumps(saved)))
    store.close()
    session = Run(str(run), tmp_path, before=results.read(str(run)))
    session.recorder.checkpoints.own = False
    session.start(0)
    session.recorder.on_step_end(0, [])
    session.close()
    assert (run / saved["path"] / "_dict_checkpoint.pkl").exists()
    assert [json.loads(row["checkpoint"]) for row in results.read(str(run)).started.to_pylist()] == [saved]
