"""The Tune callback that turns events of a run into rows, curves, a live table and `best.json`. It runs on the driver."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from ray.tune import Callback

from raynas import storage
from raynas.arch import Arch
from raynas.columns import RESERVED, TRIALS, check_names
from raynas.outcome import ADDED, COSTS, METRICS, TEST_ACCURACY, Metric, Objective, budget_of, measured
from raynas.results import Tables, metrics_of, outcome_of
from raynas.run.checkpoints import Checkpoints
from raynas.run.display import Display, Progress
from raynas.run.failures import Failure, failure
from raynas.run.resume import Earlier
from raynas.run.retries import Retries
from raynas.run.schedulers import retell
from raynas.run.store import file_of
from raynas.run.tensorboard import RunSummary
from raynas.run.trackers import Trackers
from raynas.run.writer import Writer
from raynas.spaces import SearchSpace, known_costs

logger = logging.getLogger(__name__)

_MEMORY = "memory.json"  # what the method remembers beyond the history
_PICTURES = 10.0  # seconds between two sets of pictures for TensorBoard, for which shorter runs do not wait
_BEST = ("trial_id", "arch_id", "status", "epochs", "valid_accuracy", "test_accuracy", "parameters", "flops", "train_seconds")


class Searcher(Protocol):
    """What is asked of the searcher of a run."""

    @property
    def refits(self) -> Sequence[Any]:
        """The fits so far, each with `seconds`, `mae`, `rank_correlation` and `observations`."""

    def recommend(self) -> Arch | None:
        """The architecture to choose after what is known now."""

    def suggested(self, trial_id: str, /) -> tuple[Any, float] | None:
        """What was suggested as a trial, with `expected` and `origin`, and how many seconds ago; None where it was before this session."""

    @property
    def memory(self) -> Any:
        """What the method remembers beyond the history, plain JSON; None: nothing."""

    @property
    def promotes(self) -> bool:
        """Whether what was stopped may go on, as another trial."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any], /) -> None:
        """Notes an intermediate result."""


class Recorder(Callback):  # type: ignore[misc]  # ray has no types
    """Records one run; made anew for a resumed one, with the tables read so far.

    Args:
        uri: the run folder.
        searcher: whose fits are recorded.
        objective: says how a trial ended, and which is best.
        space: of the architectures, whose costs are recorded.
        trials: how many were asked for.
        max_epochs: a trial that ends below was stopped early; None: none is.
        command: how to train the best architecture.
        device: what a trial runs on that does not say so itself.
        columns: what all rows of trials hold.
        about: what best.json holds besides, as `space` and `space_options`.
        per_trial: whether each trial gets a TensorBoard run.
        scheduler: gets the earlier reports of a trial that is resumed.
        before: what earlier sessions of this run have recorded.
        guard: raises RunLost where the folder is ours no more.
        retries: knows how often trials have failed, and whose fault it was.
        settings: of the search, that TensorBoard shows beside its best values.
        metrics: what is known of metrics.
        trackers: are told what is recorded.

    Raises:
        ConfigError: a metric of the objective or of a limit has the name of a column of another meaning.
    """

    def __init__(
        self,
        uri: str,
        searcher: Searcher,
        *,
        objective: Objective,
        space: SearchSpace,
        trials: int,
        max_epochs: int | None,
        command: str,
        about: Mapping[str, Any],
        device: str = "cpu",
        columns: Mapping[str, Any] | None = None,
        per_trial: bool = False,
        scheduler: Any | None = None,
        before: Tables | None = None,
        guard: Callable[..., None] = lambda look=False: None,
        retries: Retries | None = None,
        settings: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Metric] = METRICS,
        trackers: Trackers | None = None,
    ) -> None:
        check_names(objective)
        self.uri, self.searcher, self.objective, self.space = uri, searcher, objective, space
        self.max_epochs, self.command, self.about, self.scheduler = max_epochs, command, dict(about), scheduler
        self.device, self.columns = device, dict(columns or {})
        self.checkpoints = Checkpoints(uri)
        self.earlier = Earlier(before)
        self.retries, self.trackers = retries or Retries(), trackers or Trackers([], {}, "", {})
        self.summary = RunSummary(storage.join(uri, "tensorboard"), per_trial, settings)  # only the writer's thread uses it
        self.store = Writer(uri, self._say, self.summary.flush, guard, metrics)
        self.display: Display | None = None
        self.progress = Progress(trials, objective)
        self.best: dict[str, Any] | None = None  # the row of the best trial
        self._merit: Any = None  # of the best trial
        self._rows: dict[str, dict[str, Any]] = {}  # Tune's trial id -> row in `started`
        self._epochs = dict(self.earlier.epochs)  # trial id -> last recorded epoch
        self._refused: set[str] = set()  # names of metrics that are not stored
        self._order, self._refits = self.earlier.next_order, 0
        self._best_written = True
        self.memory: Any = storage.read_json(uri, _MEMORY) if before is not None and storage.exists(uri, _MEMORY) else None
        self._began = self._pictured = time.monotonic()
        self._predictions: list[tuple[float, float]] = []  # (predicted, observed) of the full evaluations
        for row in sorted(self.earlier.ended, key=lambda ended: ended["ended_at"]):
            self._count(row)
        self.progress.before = self.progress.ended

    @property
    def unfinished(self) -> dict[str, dict[str, Any]]:
        """Rows in `started` of earlier sessions, by architecture, of trials that have not begun again."""
        return self.earlier.unfinished

    # -- Tune's events ---------------------------------------------------------------------------------------------------

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial starts, or starts again after a pause or a failure."""
        self._started(trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """A trial reports; what it reported before it was resumed is not recorded again."""
        trial_id, epoch = self._rows[trial.trial_id]["trial_id"], int(budget_of(result) or 0)
        if result.get("warning"):
            logger.warning("trial %s: %s", trial_id, result["warning"])
        if epoch <= self._epochs.get(trial_id, -1):
            return
        self._epochs[trial_id] = self.progress.epochs[trial_id] = epoch
        metrics = {name: value for name, value in self._stored(measured(result)).items() if name not in COSTS}
        row = metrics | {"wall_seconds": result.get("time_total_s")}
        self.store.add_report(row | {"trial_id": trial_id, "epoch": epoch})
        self.trackers.reported(trial_id, epoch, row)
        self.store.then(partial(self.summary.report, trial_id, epoch, metrics))

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        """A checkpoint is complete.

        The row that points to it is written after every report that led to it, and what it replaces is deleted after that row; so the
        row on disk always points to a checkpoint that exists, and no report before it is missing.
        """
        if trial.last_result.get("done"):  # the trial ends next
            return
        row = self._rows[trial.trial_id]
        before, now = row["checkpoint"], self.checkpoints.noted(checkpoint, trial.last_result)
        row["checkpoint"] = json.dumps(now)
        self.store.add_started(row)
        self.checkpoints.release_replaced(before and json.loads(before), now)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended by itself or by its scheduler."""
        self._end(trial)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed and is tried again."""
        self._say(self.retries.recovering(f"trial {self._started(trial)['trial_id']}", trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        self._end(trial, failure(trial))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Once per turn of the control loop: has written what is due.

        Raises:
            RunLost: the storage has not answered for too long, so the run must end.
        """
        new = self.searcher.refits[self._refits :]
        for refit in new:
            numbers = refit.seconds, refit.mae, refit.rank_correlation
            self.store.then(partial(self.summary.refit, self.progress.ended, *numbers))
            self.progress.mae = refit.mae if refit.mae is not None else self.progress.mae
        self._refits += len(new)
        if self.searcher.memory != self.memory:
            self.memory = self.searcher.memory
            self.store.put_json(_MEMORY, self.memory)
        if deletion := self.checkpoints.deletion():
            self.store.delete(deletion)
        if not self._best_written:
            self.write_best()
        if time.monotonic() - self._pictured > _PICTURES:
            self._draw()
        self._tell_news()
        self.store.check()
        self.progress.seconds, self.progress.session_seconds = self._seconds(), time.monotonic() - self._began
        if self.display is not None:
            self.display.show(self.progress)

    # -- rows ------------------------------------------------------------------------------------------------------------

    def _started(self, trial: Any) -> dict[str, Any]:
        """The row of a trial under way; made here for a new one, which fails before it starts where its actor cannot be created."""
        if trial.trial_id in self._rows:
            return self._rows[trial.trial_id]
        arch = trial.config["arch"]
        earlier = self.earlier.take(arch["id"])
        if earlier is None:
            text = json.dumps(arch, separators=(",", ":"))
            row = {"order": self._order, "trial_id": trial.trial_id, "arch_id": arch["id"], "arch": text}
            budget = trial.config.get("max_epochs")
            row |= {"started_at": datetime.now(UTC), "budget": None if budget == self.max_epochs else budget}
            row |= {"checkpoint": self.checkpoints.waiting.pop(arch["id"], (None,))[0]} | self._origin(trial.trial_id)
            self._order += 1
            self.store.add_started(row)
            self._give_back(trial, row)
        else:
            row, reports = earlier
            self._go_on(trial, row, reports)
        self._rows[trial.trial_id] = row
        self.trackers.started(row)
        self.progress.running += 1
        self.progress.epochs[row["trial_id"]] = 0
        return row

    def _origin(self, trial_id: str) -> dict[str, Any]:
        """How a trial was proposed, and what was expected of it."""
        told = self.searcher.suggested(trial_id)
        if told is None:
            return {}
        (suggestion, seconds), sign = told, -1.0 if self.objective.first.direction == "min" else 1.0
        expected, origin = suggestion.expected, suggestion.origin
        row = {"proposed_by": origin.by, "parent": origin.parent, "acquisition": origin.acquisition, "queue_seconds": seconds}
        return row | {"predicted": None if expected is None else sign * expected, "predicted_deviation": origin.deviation}

    def _go_on(self, trial: Any, row: dict[str, Any], reports: Sequence[dict[str, Any]]) -> None:
        """Lets a trial of an earlier session go on from its checkpoint; scheduler and searcher are shown what it reported."""
        if self.scheduler is not None:
            retell(self.scheduler, trial, reports, self.objective.first.name)
        for report in reports:
            self.searcher.on_trial_result(trial.trial_id, report)
        self._give_back(trial, row)

    def _give_back(self, trial: Any, row: Mapping[str, Any]) -> None:
        """Lets a trial go on from the checkpoint of its row, if it has one."""
        if row["checkpoint"] is not None:
            saved = json.loads(row["checkpoint"])
            if problem := self.checkpoints.give_back(trial, saved):
                logger.warning("trial %s: %s", row["trial_id"], problem)  # the row keeps it until there is another: --trust may come

    def _end(self, trial: Any, failed: Failure | None = None) -> None:
        row = dict(self._started(trial))
        del self._rows[trial.trial_id]
        noted = row.pop("checkpoint")
        del row["budget"]  # of trials under way
        row |= self.columns
        result, now = trial.last_result or {}, datetime.now(UTC)
        costs = known_costs(self.space, self.space.from_config(trial.config["arch"]))
        outcome = self.objective.judge(result, self.max_epochs, error=failed and failed.reason, costs=costs)
        row |= {"wall_seconds": (now - row["started_at"]).total_seconds()} | self._stored(outcome.metrics)
        row |= {"status": outcome.status, "error": outcome.error, "ended_at": now} | self._where(result)
        row["epochs"] = int(outcome.budget) if measured(result).keys() - ADDED else None
        if outcome.status == "stopped" and noted is not None and self.searcher.promotes:
            self.checkpoints.waiting[row["arch_id"]] = noted, bool(trial.checkpoint_freq)
        else:
            self._release(trial, noted)
        tries = self.retries.ended(trial)
        fault = "architecture" if outcome.status == "failed" and not failed else tries.blame.fault  # the former: its last report is none
        row |= {"fault": fault if outcome.status == "failed" or tries.retries else None, "retries": tries.retries}
        log = failed or (failure(trial) if tries.retries else None)
        row["log_path"] = log and f"errors/{row['trial_id']}.txt"
        row["error_file"] = row["log_path"] if failed else None
        if log:
            self.store.put(row["log_path"], log.text.encode())
        self.store.add_trial(row)
        self.trackers.ended(row)
        if outcome.status == "failed":
            text = f"; see {storage.join(self.uri, row['error_file'])}" if failed else ""
            self._say(f"trial {row['trial_id']} failed: {outcome.error}{text}")
        self.store.then(partial(self.summary.trial_closed, row["trial_id"]))
        self.progress.running -= 1
        self.progress.epochs.pop(row["trial_id"], None)
        self._count(row)
        shown = {name: value for name, value in self._incumbent(row).items() if value is not None}
        self.store.then(partial(self.summary.trial_ended, self.progress.ended, outcome.status, shown, self.progress.failed))
        if self.best is not None:
            spent = self.progress.ended, self._seconds(), self.progress.train_seconds
            self.store.then(partial(self.summary.trial_done, *spent, self._incumbent(self.best)))
        if (front := self.progress.front).settled:
            self.store.then(partial(self.summary.front, self.progress.ended, len(front.rows), front.hypervolume))

    def _draw(self) -> None:
        """Has pictures made where something is new."""
        self._pictured = time.monotonic()
        if self.best is not None:
            arch, predictions = json.loads(self.best["arch"]), list(self._predictions)
            self.store.then(partial(self.summary.pictures, self.progress.ended, self.space, arch, predictions))

    def _where(self, result: Mapping[str, Any]) -> dict[str, str | None]:
        """The node and the device that a trial ran on last, as its last report tells; a trainable may report a `device` of its own."""
        host, ip = result.get("hostname"), result.get("node_ip")
        node = f"{host} ({ip})" if host and ip else host or ip
        return {"node": node, "device": str(result.get("device") or self.device) if result else None}

    def _release(self, trial: Any, noted: str | None) -> None:
        """Nobody needs the checkpoints of a trial that has ended, but for those that a user's function writes on its own."""
        if trial.checkpoint_freq and trial.checkpoint is not None:
            self.checkpoints.release(trial.checkpoint)
        if trial.checkpoint_freq and noted is not None:
            self.checkpoints.release_saved(json.loads(noted))

    def _stored(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """What the tables take of metrics: no value that the objective does not allow, none under a name that has another meaning."""
        wrong = {metric.name for metric in self.objective.metrics if metric.name in metrics and metric.problem(metrics[metric.name])}
        for name in (metrics.keys() & RESERVED) - self._refused:
            self._refused.add(name)
            logger.warning("the metric %s is not stored: a column of the tables has that name; report it under another one", name)
        return {name: value for name, value in metrics.items() if name not in wrong | self._refused}

    def _say(self, text: str) -> None:
        if self.display is None:
            logger.warning(text)
        else:
            self.display.say(text)

    def _count(self, row: Mapping[str, Any]) -> None:
        outcome = outcome_of(row)
        self.progress.count(outcome.status, row.get("train_seconds"), outcome.error)
        observed, predicted = outcome.metrics.get(self.objective.first.name), row.get("predicted")
        if outcome.status == "finished" and observed is not None and predicted is not None:
            self._predictions.append((predicted, observed))
        self.progress.front.add(row, outcome)
        merit = self.objective.merit(outcome)
        if merit is not None and (self._merit is None or merit > self._merit):
            self.best, self._merit = dict(row), merit
            self.progress.best = self.best
            self._best_written = False

    def _incumbent(self, row: Mapping[str, Any]) -> dict[str, float | None]:
        """What the summary shows of the best trial: objectives, the test accuracy, and metrics that have no fixed column."""
        names = [*(metric.name for metric in self.objective.metrics), TEST_ACCURACY.name]
        return {name: row.get(name) for name in dict.fromkeys([*names, *(metrics_of(row).keys() - set(TRIALS.names))])}

    def look_for_checkpoints(self, forget: bool) -> None:
        """Looks for those that unfinished trials go on from; `forget`: all others of earlier sessions are deleted."""
        used = self.earlier.checkpoints()
        self.store.ask(partial(self.checkpoints.look, used))
        if forget:
            self.store.ask(partial(self.checkpoints.release_others, "tune", used))

    def _seconds(self) -> float:
        return self.earlier.seconds + time.monotonic() - self._began

    def write_best(self, recommended: Arch | None = None) -> None:
        """Has `best.json` written, if there is a best architecture; what the searcher recommends is known at the end only."""
        self._best_written = True
        if self.best is not None:
            value = {"arch": json.loads(self.best["arch"])} | {key: self.best.get(key) for key in _BEST}
            value |= {name: number for name, number in metrics_of(self.best).items() if name not in value}
            value |= self.about | {"recommended": recommended and recommended.to_config(), "train": self.command}
            self.store.put_json("best.json", value)

    def close(self, config: Mapping[str, Any] | None = None) -> None:
        """Writes everything, with `config` as config.json where it is given, and merges the parts.

        Raises:
            RunLost: the storage has not answered for too long.
        """
        with ExitStack() as stack:
            if self.display is not None:
                stack.callback(self.display.close, self.progress)
            stack.callback(self._tell_news)
            stack.callback(self.trackers.close)
            stack.callback(self.store.close)
            self.write_best(self.searcher.recommend())
            self.checkpoints.release_waiting()
            if len(self.objective.metrics) > 1:
                self.store.put("front.parquet", file_of("trials", self.progress.front.rows, self.store.metrics))
            if config is not None:
                self.store.put_json("config.json", config)
            if self._seconds() > _PICTURES:
                self._draw()
            if deletion := self.checkpoints.deletion():
                self.store.delete(deletion)
            self.store.then(self.summary.close)

    def _tell_news(self) -> None:
        for line in self.trackers.news():
            self._say(line)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles callbacks, which nobody ever unpickles; a thread does not travel."""
        return {"about": self.about}
