"""The Tune callback that turns events of a run into rows, curves, a live table and `best.json`. It runs on the driver."""

import json
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSelector, FileType
from ray.train._internal.session import _TrainingResult
from ray.tune import Callback, Checkpoint

from raynas import storage
from raynas.arch import Arch
from raynas.results import Tables
from raynas.run.display import Display, Progress
from raynas.run.schedulers import show
from raynas.run.store import RunStore
from raynas.run.tensorboard import RunSummary
from searchers.tune import TuneSearcher

logger = logging.getLogger(__name__)

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
        searcher: TuneSearcher,
        trials: int,
        max_epochs: int | None,
        command: str,
        per_trial: bool = False,
        scheduler: Any | None = None,
        before: Tables | None = None,
    ) -> None:
        self.uri, self.searcher, self.max_epochs, self.command = uri, searcher, max_epochs, command
        self._fs, self._root = storage.filesystem(uri)
        self.store = RunStore(uri)
        self.summary = RunSummary(storage.join(uri, "tensorboard"), per_trial)
        self.display: Display | None = None
        self.progress = Progress(trials)
        self.best: dict[str, Any] | None = None  # the row of the best trial
        self.scheduler = scheduler
        self.unfinished: dict[str, dict[str, Any]] = {}  # architecture id -> row in `started` of an earlier session
        self._rows: dict[str, dict[str, Any]] = {}  # Tune's trial id -> row in `started`
        self._epochs: dict[str, int] = {}  # trial id -> last recorded epoch
        self._reports: dict[str, list[dict[str, Any]]] = {}  # of unfinished trials, by trial id
        self._obsolete: set[str] = set()  # folders of checkpoints that nobody needs once all rows are written
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
        if result.get("warning"):
            logger.warning("trial %s: %s", trial_id, result["warning"])
        if epoch <= self._epochs.get(trial_id, 0):
            return
        self._epochs[trial_id] = epoch
        row = {"trial_id": trial_id, "epoch": epoch, "wall_seconds": float(result["time_total_s"])}
        self.store.add_report(row | _present(result, _REPORTED))
        self.summary.report(trial_id, epoch, _present(result, _REPORTED))

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        """A checkpoint is complete; Tune deletes the last but one next.

        The flush writes the row that points to the last one, and every report that led to this one; so the row on disk always
        points to a checkpoint that exists, and no report after it is missing.
        """
        result = trial.last_result
        if result.get("done"):  # the trial ends next
            return
        self.store.flush()
        row = self._rows[trial.trial_id]
        before, path = row["checkpoint"], checkpoint.path.removeprefix(f"{self._root}/")
        saved = {"path": path, "training_iteration": result["training_iteration"], "time_total_s": result["time_total_s"]}
        row["checkpoint"] = json.dumps(saved)
        self.store.add_started(row)
        if before is not None and _folder(before) != _folder(row["checkpoint"]):
            self._obsolete.add(_folder(before))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended by itself or by its scheduler."""
        result = trial.last_result
        if result.get(METRIC) is None or result[METRIC] != result[METRIC]:
            self._end(trial, "failed", f"the last report has no {METRIC}" if result.get(METRIC) is None else f"{METRIC} is NaN")
        else:
            self._end(trial, "stopped" if self.max_epochs and _epoch(result) < self.max_epochs else "finished")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        self._end(trial, "failed", failure(trial))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Once per turn of the control loop: writes what is due."""
        new = self.searcher.refits[self._refits :]
        for refit in new:
            self.summary.refit(self.progress.ended, refit.seconds, refit.mae, refit.rank_correlation, refit.observations)
            self.progress.mae = refit.mae if refit.mae is not None else self.progress.mae
        self._refits += len(new)
        self.store.maybe_flush()
        if self.store.flushed_all:
            self._delete_obsolete()
            if not self._best_written:
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
            row = {"order": self._order, "trial_id": trial.trial_id, "arch_id": arch["id"], "arch": text}
            row |= {"started_at": datetime.now(UTC), "checkpoint": None}
            self._order += 1
            self.store.add_started(row)
        else:
            self._go_on(trial, row)
        self._rows[trial.trial_id] = row
        self.progress.running += 1
        return row

    def _go_on(self, trial: Any, row: dict[str, Any]) -> None:
        """Lets a trial of an earlier session go on from its checkpoint; scheduler and searcher are shown what it reported."""
        reports = self._reports.pop(row["trial_id"])
        if self.scheduler is not None:
            show(self.scheduler, trial, reports)
        for report in reports:
            self.searcher.on_trial_result(trial.trial_id, report)
        if row["checkpoint"] is None:
            return
        saved = json.loads(row["checkpoint"])
        path = f"{self._root}/{saved.pop('path')}"
        if self._fs.get_file_info(path).type == FileType.NotFound:
            logger.warning("trial %s: its checkpoint %s is gone, so it begins again", row["trial_id"], path)
            self._obsolete.add(_folder(row["checkpoint"]))
            row["checkpoint"] = None
        else:  # Tune restores a trial that starts from here, just as it does after a node was lost
            trial._restore_checkpoint_result = _TrainingResult(Checkpoint(path, self._fs), saved)

    def _end(self, trial: Any, status: str, error: str | None = None) -> None:
        started = self._started(trial)
        del self._rows[trial.trial_id]
        result, now = trial.last_result or {}, datetime.now(UTC)
        row = started | {"status": status, "error": error, "ended_at": now, "epochs": _epoch(result) if METRIC in result else None}
        row["wall_seconds"] = (now - started["started_at"]).total_seconds()
        row |= _present(result, _ENDED)
        if trial.checkpoint is not None and trial.checkpoint_freq:  # not those that a user's function writes on its own
            self._obsolete.add(trial.checkpoint.path.removeprefix(f"{self._root}/").rpartition("/")[0])
        if row.pop("checkpoint") is not None and trial.checkpoint_freq:
            self._obsolete.add(_folder(started["checkpoint"]))
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

    def forget_checkpoints(self) -> None:
        """Has the checkpoints of earlier sessions deleted, but for those that unfinished trials go on from."""
        used = {_folder(row["checkpoint"]) for row in self.unfinished.values() if row["checkpoint"]}
        for session in self._folders("tune"):
            self._obsolete.update(folder for folder in self._folders(session) if folder not in used)

    def _folders(self, path: str) -> list[str]:
        """Those in a folder, all as paths in the run folder."""
        infos = self._fs.get_file_info(FileSelector(f"{self._root}/{path}", allow_not_found=True))
        return [f"{path}/{info.base_name}" for info in infos if info.type == FileType.Directory]

    def _delete_obsolete(self) -> None:
        while self._obsolete:
            for path in self._folders(self._obsolete.pop()):
                try:
                    self._fs.delete_dir(f"{self._root}/{path}")
                except OSError as error:
                    logger.warning("the checkpoint %s cannot be deleted: %s", path, error)

    def _seconds(self) -> float:
        return self._earlier_seconds + time.monotonic() - self._began

    def write_best(self, recommended: Arch | None = None) -> None:
        """Writes `best.json`, if there is a best architecture; what the searcher recommends is known at the end only."""
        self._best_written = True
        if self.best is not None:
            keys = ("trial_id", "arch_id", "status", "epochs", "valid_accuracy", "test_accuracy", "parameters", "flops", "train_seconds")
            value = {"arch": json.loads(self.best["arch"])} | {key: self.best.get(key) for key in keys}
            value |= {"recommended": recommended and recommended.to_config(), "train": self.command}
            storage.write_json(self.uri, "best.json", value)

    def close(self) -> None:
        """Writes everything and merges the parts."""
        self.store.close()
        self._delete_obsolete()
        self.write_best(self.searcher.recommend())
        self.summary.close()
        if self.display is not None:
            self.display.close(self.progress)


def failure(trial: Any) -> str:
    """Why a trial of Tune failed, in one line."""
    text = Path(trial.error_file).read_text(encoding="utf-8")  # here at once; a copy reaches the run folder later
    return [line.strip() for line in text.splitlines() if line.strip()][-1]


def _folder(checkpoint: str) -> str:
    """The folder of all checkpoints of a trial, in the run folder; `checkpoint`: column of `started`."""
    return str(json.loads(checkpoint)["path"]).rpartition("/")[0]


def _epoch(result: Mapping[str, Any]) -> int:
    return int(result.get("epoch", result.get("training_iteration", 0)))


def _present(result: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: result[key] for key in keys if result.get(key) is not None}


def _merit(row: Mapping[str, Any]) -> tuple[bool, float]:
    """A full evaluation counts more than any that was stopped."""
    return row["status"] == "finished", row[METRIC]
