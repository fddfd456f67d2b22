"""A search on a simulated cluster: any method, any Tune scheduler, a benchmark table, W workers and a simulated clock.

The engine is the object that runs on Ray, asked and told as there, and the scheduler is Tune's own class; only actors and time
are simulated. A trial takes the table's training seconds (or, where the table knows none, one second an epoch), so completions are
asynchronous and out of order.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from raynas.errors import ConfigError
from raynas.outcome import Merit, Status
from raynas.run.schedulers import BananasAsha
from raynas.tables import Table
from searchers import Engine


@dataclass(frozen=True)
class SimulatedResult:
    """One ended trial, in order of completion."""

    arch_id: str
    status: Status
    epochs: int  # of the last report; 0 for a trial that failed before its first
    valid_accuracy: float | None
    test_accuracy: float | None
    started: float  # simulated seconds since the search began
    ended: float


@dataclass(eq=False)
class _Trial:
    """What schedulers read of a Tune trial."""

    trial_id: str
    config: dict[str, Any]
    arch_id: str
    started: float
    slowness: float
    fails_at: float  # in seconds of its own work
    reports: int  # until it ends by itself
    status: str = Trial.PENDING
    is_saving: bool = False
    reported: int = 0  # budgets
    last_result: dict[str, Any] = field(default_factory=dict)


class Simulation:
    """One simulated search.

    Args:
        engine: the method's ask/tell loop; with `fitting="inline"` a run is a function of its seeds.
        table: answers the trials.
        trials: architectures to evaluate.
        workers: trials at once.
        scheduler: a Tune scheduler with metric and mode; None: every trial runs to the end.
        repeat: of the table, as in `Table.query`.
        max_epochs: the largest budget used; None: the table's.
        failure_rate: share of the trials that fail, at a random moment.
        straggler_rate, straggler_factor: share of the trials that take that many times longer.
        seed: of failures and stragglers.
    """

    def __init__(
        self,
        engine: Engine,
        table: Table,
        trials: int,
        workers: int = 1,
        scheduler: Any | None = None,
        *,
        repeat: int | Literal["mean"] = "mean",
        max_epochs: int | None = None,
        failure_rate: float = 0.0,
        straggler_rate: float = 0.0,
        straggler_factor: float = 5.0,
        seed: int = 0,
    ) -> None:
        if trials < 1 or workers < 1 or not 0 <= failure_rate <= 1 or not 0 <= straggler_rate <= 1 or straggler_factor < 1:
            raise ConfigError("trials and workers must be at least 1, rates between 0 and 1, and straggler_factor at least 1")
        self.engine, self.table, self.trials, self.workers = engine, table, trials, workers
        self.scheduler = scheduler or FIFOScheduler()
        if isinstance(self.scheduler, BananasAsha):
            self.scheduler.bind(engine)
        self.repeat, self.budgets = repeat, tuple(b for b in table.budgets if max_epochs is None or b <= max_epochs)
        self.failure_rate, self.straggler_rate, self.straggler_factor = failure_rate, straggler_rate, straggler_factor
        self.results: list[SimulatedResult] = []
        self.best: SimulatedResult | None = None
        self._merit: Merit | None = None  # of the best
        self.now = 0.0
        self._rng = np.random.default_rng(seed)
        self._live: list[_Trial] = []
        self._events: list[tuple[float, int, _Trial]] = []  # (time, tie-breaker, trial that reports or fails)
        self._ties = itertools.count()
        self._asked = 0
        self._running = 0

    def run(self, on_result: Callable[["Simulation"], bool | None] | None = None) -> list[SimulatedResult]:
        """Runs to the end; `on_result` is called after every trial that has ended, and ends the search where it returns True."""
        while True:
            self._fill()
            if not self._events:
                return self.results
            before = len(self.results)
            self.now, _, trial = heapq.heappop(self._events)
            self._step(trial)
            if on_result is not None and len(self.results) > before and on_result(self):
                return self.results

    # -- what schedulers ask of Tune's controller --------------------------------------------------------------------------

    def get_trials(self) -> list[_Trial]:
        """Trials that have not ended."""
        return self._live

    def get_live_trials(self) -> set[_Trial]:
        """Trials that have not ended."""
        return set(self._live)

    def stop_trial(self, trial: _Trial) -> None:
        """Ends a paused trial."""
        self.scheduler.on_trial_remove(self, trial)
        self._end(trial)

    # -- the loop --------------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Gives every idle worker a trial: one that waits, as the scheduler chooses, else a new one."""
        while self._running < self.workers:
            waiting = self._running < len(self._live)
            trial = self.scheduler.choose_trial_to_run(self) if waiting else None
            if trial is None and len(self._live) < self.workers:  # paused trials count, as they do for Tune's ConcurrencyLimiter
                trial = self._new()
            if trial is None:
                return
            trial.status = Trial.RUNNING
            self._running += 1
            self._schedule(trial)

    def _new(self) -> _Trial | None:
        if self._asked == self.trials:
            return None
        trial_id = f"{self._asked:08d}"
        suggestion = self.engine.ask()
        if suggestion is None:
            return None
        self._asked += 1
        slow = self.straggler_rate > 0 and self._rng.random() < self.straggler_rate
        arch_id, config = suggestion.arch.id, {"arch": suggestion.arch.to_config()}
        before = self.engine.history.observed.get(arch_id)
        reported = 0 if before is None else sum(budget <= before.budget for budget in self.budgets)  # it goes on where it was stopped
        fails = self.failure_rate > 0 and self._rng.random() < self.failure_rate
        fails_at = self._rng.random() * self._seconds(arch_id, len(self.budgets) - 1) if fails else float("inf")
        reports = sum(suggestion.budget is None or budget <= suggestion.budget for budget in self.budgets) or 1
        trial = _Trial(trial_id, config, arch_id, self.now, self.straggler_factor if slow else 1.0, fails_at, reports, reported=reported)
        self._live.append(trial)
        self.scheduler.on_trial_add(self, trial)
        return trial

    def _seconds(self, arch_id: str, index: int) -> float:
        """Training seconds up to the budget with this index; 0 before the first."""
        if index < 0:
            return 0.0
        seconds = self.table.query(arch_id, self.budgets[index], self.repeat).train_seconds
        return float(self.budgets[index]) if seconds is None else seconds

    def _schedule(self, trial: _Trial) -> None:
        done, due = self._seconds(trial.arch_id, trial.reported - 1), self._seconds(trial.arch_id, trial.reported)
        wait = (min(due, max(trial.fails_at, done)) - done) * trial.slowness
        heapq.heappush(self._events, (self.now + wait, next(self._ties), trial))

    def _step(self, trial: _Trial) -> None:
        """A running trial fails or reports; who hears of it, and in which order, is as in Tune's controller."""
        self._running -= 1
        if trial.fails_at < self._seconds(trial.arch_id, trial.reported):
            self.scheduler.on_trial_error(self, trial)
            self._end(trial, error="its worker was lost")
            return
        record = self.table.query(trial.arch_id, self.budgets[trial.reported], self.repeat)
        trial.reported += 1
        done = trial.reported == trial.reports
        trial.last_result = record._asdict() | {"training_iteration": trial.reported, "done": done}
        if done:
            self.scheduler.on_trial_complete(self, trial, trial.last_result)
            self._end(trial)
            return
        decision = self.scheduler.on_trial_result(self, trial, trial.last_result)
        if decision == TrialScheduler.STOP:
            self.scheduler.on_trial_complete(self, trial, trial.last_result)
            self._end(trial)
            return
        self.engine.report(trial.arch_id, trial.last_result)
        if decision == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED
        else:
            self._running += 1
            self._schedule(trial)

    def _end(self, trial: _Trial, error: str | None = None) -> None:
        outcome = self.engine.tell(trial.arch_id, trial.last_result or None, error=error)
        trial.status = Trial.TERMINATED
        self._live.remove(trial)
        last = trial.last_result
        values = last.get("valid_accuracy"), last.get("test_accuracy")
        status = "failed" if outcome is None else outcome.status
        self.results.append(SimulatedResult(trial.arch_id, status, last.get("epoch", 0), *values, trial.started, self.now))
        merit = None if outcome is None else self.engine.objective.merit(outcome)
        if merit is not None and (self._merit is None or merit > self._merit):
            self.best, self._merit = self.results[-1], merit
