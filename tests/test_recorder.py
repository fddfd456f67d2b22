"""What is recorded of trials: events as Tune sends them, without Ray, and what is on disk afterwards."""

import io
import json
import math
import pickle
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError
from rich.console import Console

from raynas import results, storage
from raynas.arch import Arch
from raynas.outcome import METRICS, Objective, declare
from raynas.run.display import Display
from raynas.run.failures import Hung
from raynas.run.recorder import Recorder
from raynas.run.retries import Retries
from raynas.spaces import make_space

SPACE = make_space("nasbench201")
RNG = np.random.default_rng(0)
ARCHS = [SPACE.sample(RNG) for _ in range(8)]
TRACE = 'Failure # 1 (occurred at 2026-11-24_23-14-55)\n  File "/mine.py", line 9, in step\n    raise error\n{}\n'


class Watched:
    """In place of a searcher."""

    def __init__(self) -> None:
        self.refits: list[Any] = []
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.memory: Any = None

    def suggested(self, trial_id: str) -> None:
        """Knows nothing of trials."""

    def recommend(self) -> Arch | None:
        return ARCHS[0]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.told.append((trial_id, result))


class Run:
    """One session of a run, to which trials are given as Tune would."""

    def __init__(self, uri: str, tmp_path: Path, objective: Objective | None = None, max_epochs: int | None = 3, **options: Any) -> None:
        self.searcher, self.tmp_path, self.output = Watched(), tmp_path, io.StringIO()
        self.recorder = Recorder(
            uri,
            self.searcher,
            objective=objective or Objective(),
            space=SPACE,
            trials=8,
            max_epochs=max_epochs,
            command="train it",
            about={"space": "nasbench201", "space_options": {}},
            **options,
        )
        self.recorder.display = Display(Console(file=self.output, width=200))

    def trial(self, number: int, *reports: Mapping[str, Any], error: str | None = None, name: str = "t") -> None:
        """A whole trial."""
        trial = self.start(number, name)
        for i, report in enumerate(reports, 1):
            self.report(trial, {"training_iteration": i, "time_total_s": float(i), "config": {}, "pid": 7} | dict(report))
        if error is None:
            self.recorder.on_trial_complete(0, [], trial)
        else:
            self.fail(trial, error)

    def start(self, number: int, name: str = "t") -> Any:
        config = {"arch": ARCHS[number].to_config()}
        trial = SimpleNamespace(
            trial_id=f"{name}{number}", config=config, last_result={}, checkpoint=None, checkpoint_freq=0, error_file=""
        )
        self.recorder.on_trial_start(0, [], trial)
        return trial

    def report(self, trial: Any, result: dict[str, Any]) -> None:
        trial.last_result = result
        self.recorder.on_trial_result(0, [], trial, result)

    def fail(self, trial: Any, error: str) -> None:
        path = self.tmp_path / "error.txt"
        path.write_text(TRACE.format(error))
        trial.error_file = str(path)
        self.recorder.on_trial_error(0, [], trial)

    def close(self) -> str:
        """Ends the session; what it printed."""
        self.recorder.close()
        return self.output.getvalue()


@pytest.fixture(params=["path", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"path": str(tmp_path / "run"), "memory": f"memory://{uuid.uuid4().hex}/run"}[request.param]


def rows(uri: str) -> list[dict[str, Any]]:
    return results.read(uri).trials.to_pylist()


# How trials end


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, None, 93.0, -0.1, "high"])
def test_a_value_that_is_no_accuracy_is_a_failure_and_a_resume_works(value: Any, uri: str, tmp_path: Path) -> None:
    run = Run(uri, tmp_path)
    run.trial(0, {"epoch": 1, "valid_accuracy": 0.5}, {"epoch": 3, "valid_accuracy": value})
    run.trial(1, {"epoch": 3, "valid_accuracy": 0.25})
    printed = run.close()
    failed, finished = rows(uri)
    assert (failed["status"], failed["valid_accuracy"], failed["error_file"]) == ("failed", None, None)
    assert "valid_accuracy" in failed["error"]
    assert f"trial t0 failed: {failed['error']}\n" in printed
    assert results.read(uri).reports["valid_accuracy"].to_pylist() == [0.5, None, 0.25]
    again = Run(uri, tmp_path, before=results.read(uri)).recorder
    assert (again.progress.failed, again.progress.finished) == (1, 1)
    assert again.best is not None
    assert again.best["arch_id"] == finished["arch_id"] == ARCHS[1].id


def test_a_resume_of_a_run_that_took_infinity_for_the_best_works(uri: str, tmp_path: Path) -> None:
    """An earlier version wrote such a row as finished, with null."""
    run = Run(uri, tmp_path)
    run.trial(0, {"epoch": 3, "valid_accuracy": 0.25})
    (row,) = (dict(row) for row in rows_of(run))
    run.recorder.store.add_trial(row | {"order": 1, "trial_id": "t1", "valid_accuracy": None})
    run.close()
    again = Run(uri, tmp_path, before=results.read(uri)).recorder
    assert again.best is not None
    assert again.best["trial_id"] == "t0"


def rows_of(run: Run) -> list[dict[str, Any]]:
    run.recorder.store.flush()
    return rows(run.recorder.uri)


def test_the_name_that_is_missing_and_those_that_came_are_said(uri: str, tmp_path: Path) -> None:
    run = Run(uri, tmp_path)
    run.trial(0, {"epoch": 3, "accuracy": 0.5})
    run.trial(1)
    run.close()
    assert [row["error"] for row in rows(uri)] == [
        "the last report has no valid_accuracy; it has epoch, accuracy",
        "the last report has no valid_accuracy; it has nothing",
    ]
    assert [row["epochs"] for row in rows(uri)] == [3, None]


@pytest.mark.parametrize("report", [{"epoch": 3, "valid_accuracy": 0.5}, {"valid_accuracy": 0.5}])
def test_a_report_of_little_is_enough(report: dict[str, Any], uri: str, tmp_path: Path) -> None:
    run = Run(uri, tmp_path, max_epochs=None)
    run.trial(0, report)
    run.close()
    (row,) = rows(uri)
    assert (row["status"], row["epochs"], row["valid_accuracy"]) == ("finished", report.get("epoch", 1), 0.5)


def test_epoch_0_is_recorded_and_no_epoch_twice(uri: str, tmp_path: Path) -> None:
    run = Run(uri, tmp_path)
    run.trial(0, *({"epoch": epoch, "valid_accuracy": 0.1 + epoch / 10} for epoch in (0, 1, 0, 1, 2, 3)))
    run.close()
    assert [(row["epoch"], row["valid_accuracy"]) for row in results.read(uri).reports.to_pylist()] == [
        (epoch, pytest.approx(0.1 + epoch / 10)) for epoch in (0, 1, 2, 3)
    ]


def test_the_best_is_that_of_the_objective(uri: str, tmp_path: Path) -> None:
    objective = Objective.parse(["-latency"], ["valid_accuracy>=0.5"])
    values = [(9.0, 0.6, 3), (1.0, 0.4, 3), (4.0, 0.5, 3), (2.0, 0.9, 1)]  # latency, accuracy, epochs
    run = Run(uri, tmp_path, objective)
    for number, (latency, accuracy, epochs) in enumerate(values):
        run.trial(number, {"epoch": epochs, "latency": latency, "valid_accuracy": accuracy})
    printed = run.close()
    assert [row["status"] for row in rows(uri)] == ["finished", "finished", "finished", "stopped"]
    assert storage.read_json(uri, "best.json")["latency"] == 4.0  # 1.0 breaks the limit, 2.0 was stopped
    assert "best latency 4," in printed
    again = Run(uri, tmp_path, objective, before=results.read(uri)).recorder
    assert again.best is not None
    assert again.best["latency"] == 4.0


def test_a_declared_range_is_what_counts(uri: str, tmp_path: Path) -> None:
    objective = Objective.parse([], [], declare({"valid_accuracy": {"high": 100, "unit": "%"}}, METRICS))
    run = Run(uri, tmp_path, objective)
    run.trial(0, {"epoch": 3, "valid_accuracy": 93.5})
    assert "best validation accuracy 93.5 %" in run.close()
    assert [(row["status"], row["valid_accuracy"]) for row in rows(uri)] == [("finished", 93.5)]


# Failures


def test_a_failure_is_one_line_and_its_whole_text_a_file_that_the_row_names(uri: str, tmp_path: Path) -> None:
    run = Run(uri, tmp_path)
    run.trial(0, {"epoch": 1, "valid_accuracy": 0.5}, error="torch.AcceleratorError: CUDA error: assert\nCUDA kernel errors might")
    printed = run.close()
    (row,) = rows(uri)
    assert (row["status"], row["epochs"], row["valid_accuracy"]) == ("failed", 1, 0.5)
    assert row["error"] == "AcceleratorError: CUDA error: assert"
    assert row["error_file"] == "errors/t0.txt"
    fs, root = storage.filesystem(uri)
    assert b"CUDA kernel errors might" in storage.read_bytes(fs, f"{root}/errors/t0.txt").to_pybytes()
    lines = printed.splitlines()
    assert lines[0] == f"trial t0 failed: AcceleratorError: CUDA error: assert; see {uri}/errors/t0.txt"
    assert len(lines) == 2


def test_a_trial_that_is_tried_again_says_why_and_its_row_how_often(uri: str, tmp_path: Path) -> None:
    retries = Retries(3)
    run = Run(uri, tmp_path, retries=retries)
    trial = run.start(0)
    path = tmp_path / "error.txt"
    path.write_text("Failure # 1 (occurred at 2026-11-24_23-14-55)\nthe actor died\n")
    trial.error_file = str(path)
    assert retries.judge(trial, RayActorError(), False) == 1
    run.recorder.on_trial_recover(0, [], trial)
    run.report(trial, {"epoch": 3, "training_iteration": 1, "time_total_s": 1.0, "valid_accuracy": 0.5})
    run.recorder.on_trial_complete(0, [], trial)
    assert run.close().splitlines()[0] == "trial t0 lost (machine): the actor died; tried again in 1 s (1 of 3)"
    (row,) = rows(uri)
    assert (row["status"], row["error"], row["fault"], row["retries"], row["error_file"]) == ("finished", None, "machine", 1, None)
    fs, root = storage.filesystem(uri)
    assert b"the actor died" in storage.read_bytes(fs, f"{root}/{row['log_path']}").to_pybytes()


def test_a_row_says_whose_fault_a_failure_was(uri: str, tmp_path: Path) -> None:
    retries = Retries(0)
    run = Run(uri, tmp_path, retries=retries)
    for number, error in enumerate([RayActorError(), Hung("TimeoutError: no report"), ValueError("odd")]):
        trial = run.start(number)
        assert retries.judge(trial, error, False) is None
        run.fail(trial, str(error))
    run.trial(3, {"epoch": 3, "accuracy": 0.5})  # a report that is none
    run.close()
    assert [row["fault"] for row in rows(uri)] == ["machine", "timeout", "architecture", "architecture"]


def test_progress_says_why_most_trials_failed(uri: str, tmp_path: Path) -> None:
    run = Run(uri, tmp_path)
    for number in range(5):
        run.trial(number, error=f"TableError: the table holds no {ARCHS[number].id!r}; it has {number} rows")
    run.trial(5, {"epoch": 3, "accuracy": 0.5})
    run.trial(6, {"epoch": 3, "valid_accuracy": 0.5})
    run.close()
    for progress in (run.recorder.progress, Run(uri, tmp_path, before=results.read(uri)).recorder.progress):
        assert (progress.failed, progress.finished) == (6, 1)
        assert progress.why() == [
            f"5 trials failed: TableError: the table holds no {ARCHS[0].id!r}; it has 0 rows",
            "1 trial failed: the last report has no valid_accuracy; it has epoch, accuracy",
        ]
        assert progress.why(1) == progress.why()[:1]


# Going on


def test_an_unfinished_trial_goes_on_with_what_it_reported(uri: str, tmp_path: Path) -> None:
    run = Run(uri, tmp_path)
    run.trial(0, {"epoch": 3, "valid_accuracy": 0.5})
    trial = run.start(1)
    for epoch in (0, 1):
        run.report(trial, {"epoch": epoch, "training_iteration": 1 + epoch, "valid_accuracy": 0.2, "latency": 3.0})
    run.recorder.store.flush()
    run.recorder.summary.close()  # here it is killed
    told: list[tuple[str, int]] = []
    scheduler = SimpleNamespace(on_trial_result=lambda _, trial, report: told.append((trial.trial_id, report["epoch"])))
    again = Run(uri, tmp_path, scheduler=scheduler, before=results.read(uri))
    assert list(again.recorder.unfinished) == [ARCHS[1].id]
    again.trial(1, *({"epoch": epoch, "valid_accuracy": 0.6, "latency": 3.0} for epoch in (0, 1, 2, 3)), name="new")
    again.close()
    assert told == [("new1", 0), ("new1", 1)]
    assert [(trial_id, report["epoch"], report["latency"]) for trial_id, report in again.searcher.told] == [
        ("new1", 0, 3.0),
        ("new1", 1, 3.0),
    ]
    first, second = rows(uri)
    assert (first["trial_id"], second["trial_id"], second["order"], second["status"]) == ("t0", "t1", 1, "finished")
    reports = [row for row in results.read(uri).reports.to_pylist() if row["trial_id"] == "t1"]
    assert [(row["epoch"], row["valid_accuracy"]) for row in reports] == [(0, 0.2), (1, 0.2), (2, 0.6), (3, 0.6)]
    assert not again.recorder.unfinished


def test_tune_can_pickle_it(tmp_path: Path) -> None:
    recorder = Run(str(tmp_path / "run"), tmp_path).recorder
    recorder.display = None
    assert pickle.loads(pickle.dumps(recorder)).about == recorder.about


def test_what_the_searcher_fits_is_shown(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"), tmp_path, Objective.parse(["-latency"], (), declare({"latency": {"unit": "ms"}})))
    run.searcher.refits.append(SimpleNamespace(seconds=1.0, mae=0.5, rank_correlation=0.9, observations=10))
    run.trial(0, {"epoch": 3, "latency": 2.5})
    run.recorder.on_step_end(0, [])
    assert run.recorder.progress.mae == 0.5
    assert "best latency 2.5 ms" in run.close()
    assert json.loads((tmp_path / "run" / "best.json").read_text())["latency"] == 2.5


def test_what_a_method_remembers_outlives_a_session(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"), tmp_path)
    run.searcher.memory = {"asked": 3}
    run.recorder.on_step_end(0, [])
    run.close()
    again = Run(str(tmp_path / "run"), tmp_path, before=results.read(str(tmp_path / "run")))
    assert again.recorder.memory == {"asked": 3}


def test_what_was_silent_for_longest_goes_on_last(uri: str, tmp_path: Path) -> None:
    run = Run(uri, tmp_path)
    for number in range(3):
        trial = run.start(number)
        if number < 2:
            run.report(trial, {"epoch": 1, "training_iteration": 1, "time_total_s": (900.0, 100.0)[number], "valid_accuracy": 0.5})
    run.recorder.store.flush()
    run.recorder.summary.close()  # here it is killed
    again = Run(uri, tmp_path, before=results.read(uri))
    assert list(again.recorder.unfinished) == [ARCHS[number].id for number in (0, 1, 2)]
    run.report(trial, {"epoch": 1, "training_iteration": 1, "time_total_s": 500.0, "valid_accuracy": 0.5})
    run.recorder.store.flush()
    again = Run(uri, tmp_path, before=results.read(uri))
    assert list(again.recorder.unfinished) == [ARCHS[number].id for number in (0, 2, 1)]
