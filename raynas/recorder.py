"""The Tune callback that turns events of a run into rows, curves, a live table and `best.json`. It runs on the driver."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ray.tune import Callback

from raynas import results
from raynas.display import Display, Progress
from raynas.results import RunStore, Tables
from raynas.schedulers import show
from raynas.tensorboard import RunSummary
from searchers import ArchSearcher

METRIC = "valid_accuracy"

_REPORTED = ("valid_accuracy", "test_accuracy", "train_loss", "train_seconds")
_ENDED = ("valid_accuracy", "test_accuracy", "parameters", "flops", "train_seconds")


class Recorder(Callback):  # type: ignore[misc]  # ray has no types
    """Records one run; made anew for a resumed one, with the tables read so far.

    Args:
        uri: the run folder.
        searcher: whose fits are recorded.
        trials: how many were asked for.
        max_epochs: a trial that ends below was stopped early; None: none is.
        command: how to train the best architecture.
        scheduler: gets the earlier reports of a trial that is resumed.
        before: what earlier sessions of this run have recorded.
    """

    def __init__(
        self,
        uri: str,
        searcher: ArchSearcher,
        trials: int,
        max_epochs: int | None,
        command: str,
        per_trial: bool = False,
        scheduler: Any | None = None,
        before: Tables | None = None,
    ) -> None:
        self.uri, self.searcher, self.max_epochs, self.command = uri, searcher, max_epochs, command
        self.store = RunStore(uri)
        self.summary = RunSummary(results.join(uri, "tensorboard"), per_trial)
        self.display: Display | None = None
        self.progress = Progress(trials)
        self.best: dict[str, Any] | None = None  # the row of the best trial
        self.scheduler = scheduler
        self.unfinished: dict[str, dict[str, Any]] = {}  # architecture id -> row in `started` of an earlier session
        self._rows: dict[str, dict[str, Any]] = {}  # Tune's trial id -> row in `started`
        self._epochs: dict[str, int] = {}  # trial id -> last recorded epoch
        self._reports: dict[str, list[dict[str, Any]]] = {}  # of unfinished trials, by trial id
        self._order = 0
        self._refits = 0
        self._earlier_seconds = 0.0
        self._best_written = True
        self._began = time.monotonic()
        if before is not None:
            self._continue(before)

    def _continue(self, before: Tables) -> None:
        rows = before.trials.to_pylist()
        started = before.started.to_pylist()
        for row in rows:
            self._count(row)
        self.unfinished = {row["arch_id"]: row for row in started}
        self._reports = {row["trial_id"]: [] for row in started}
        for report in before.reports.to_pylist():
            if report["trial_id"] in self._reports:
                self._reports[report["trial_id"]].append(report)
                self._epochs[report["trial_id"]] = report["epoch"]
        self._order = 1 + max((row["order"] for row in rows + started), default=-1)
        ends = [row["ended_at"] for row in rows]
        if ends:
            self._earlier_seconds = (max(ends) - min(row["started_at"] for row in rows)).total_seconds()

    # -- Tune's events ---------------------------------------------------------------------------------------------------

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial starts, or starts again after a pause or a failure."""
        self._started(trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A trial reports; what it reported before it was resumed is not recorded again."""
        trial_id, epoch = self._rows[trial.trial_id]["trial_id"], _epoch(result)
        if epoch <= self._epochs.get(trial_id, 0):
            return
        self._epochs[trial_id] = epoch
        row = {"trial_id": trial_id, "epoch": epoch, "wall_seconds": float(result["time_total_s"])}
        self.store.add_report(row | _present(result, _REPORTED))
        self.summary.report(trial_id, epoch, _present(result, _REPORTED))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended by itself or by its scheduler."""
        result = trial.last_result
        if result.get(METRIC) is None or result[METRIC] != result[METRIC]:
            self._end(trial, "failed", f"the last report has no {METRIC}" if result.get(METRIC) is None else f"{METRIC} is NaN")
        else:
            self._end(trial, "stopped" if self.max_epochs and _epoch(result) < self.max_epochs else "finished")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        error = trial.get_pickled_error() or trial.get_error()
        lines = [line.strip() for line in str(error or "its process died").splitlines() if line.strip()]
        self._end(trial, "failed", lines[-1])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Once per turn of the control loop: writes what is due."""
        new = self.searcher.refits[self._refits :]
        for refit in new:
            self.summary.refit(self.progress.ended, refit.seconds, refit.mae, refit.rank_correlation, refit.observations)
            self.progress.mae = refit.mae if refit.mae is not None else self.progress.mae
        self._refits += len(new)
        self.store.maybe_flush()
        if not self._best_written and self.store.flushed_all:
            self.write_best()
        self.progress.seconds = self._seconds()
        if self.display is not None:
            self.display.show(self.progress)

    # -- rows ------------------------------------------------------------------------------------------------------------

    def _started(self, trial: Any) -> dict[str, Any]:
        """The row of a trial under way; made here for a new one, which fails before it starts where its actor cannot be created."""
        if trial.trial_id in self._rows:
            return self._rows[trial.trial_id]
        arch = trial.config["arch"]
        row = self.unfinished.pop(arch["id"], None)
        if row is None:
            text = json.dumps(arch, separators=(",", ":"))
            row = {"order": self._order, "trial_id": trial.trial_id, "arch_id": arch["id"], "arch": text, "started_at": datetime.now(UTC)}
            self._order += 1
            self.store.add_started(row)
        elif self.scheduler is not None:
            show(self.scheduler, trial, self._reports.pop(row["trial_id"]))
        self._rows[trial.trial_id] = row
        self.progress.running += 1
        return row

    def _end(self, trial: Any, status: str, error: str | None = None) -> None:
        started = self._started(trial)
        del self._rows[trial.trial_id]
        result, now = trial.last_result or {}, datetime.now(UTC)
        row = started | {"status": status, "error": error, "ended_at": now, "epochs": _epoch(result) if METRIC in result else None}
        row["wall_seconds"] = (now - started["started_at"]).total_seconds()
        row |= _present(result, _ENDED)
        row.pop("checkpoint", None)
        self.store.add_trial(row)
        self.summary.trial_closed(row["trial_id"])
        self.progress.running -= 1
        self._count(row)
        if self.best is not None:
            test = self.best.get("test_accuracy")
            self.summary.trial_done(self.progress.ended, self._seconds(), self.progress.train_seconds, self.best[METRIC], test)

    def _count(self, row: Mapping[str, Any]) -> None:
        self.progress.count(row["status"], row.get("train_seconds"))
        if row["status"] != "failed" and (self.best is None or _merit(row) > _merit(self.best)):
            self.best = dict(row)
            self.progress.best = self.best
            self._best_written = False

    def _seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._began

    def write_best(self) -> None:
        """Writes `best.json`, if there is a best architecture."""
        self._best_written = True
        if self.best is not None:
            keys = ("trial_id", "arch_id", "status", "epochs", "valid_accuracy", "test_accuracy", "parameters", "flops", "train_seconds")
            value = {"arch": json.loads(self.best["arch"])} | {key: self.best.get(key) for key in keys} | {"train": self.command}
            results.write_json(self.uri, "best.json", value)

    def close(self) -> None:
        """Writes everything and merges the parts."""
        self.store.close()
        self.write_best()
        self.summary.close()
        if self.display is not None:
            self.display.close(self.progress)


def _epoch(result: Mapping[str, Any]) -> int:
    return int(result.get("epoch", result.get("training_iteration", 0)))


def _present(result: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: result[key] for key in keys if result.get(key) is not None}


def _merit(row: Mapping[str, Any]) -> tuple[bool, float]:
    """A full evaluation counts more than any that was stopped."""
    return row["status"] == "finished", row[METRIC]
