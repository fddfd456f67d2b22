"""What a person sees while a search runs: a live table on a terminal, a line now and then anywhere else."""

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from raynas.outcome import TEST_ACCURACY, VALID_ACCURACY, Metric, Objective
from raynas.run.fronts import Front

_LIVE_SECONDS = 0.25  # between two redrawings
_FEW = 4  # trials under way of which each is shown
_LINE_SECONDS = 10.0  # between two lines where the output is no terminal
_TITLES = {VALID_ACCURACY.name: "validation accuracy", TEST_ACCURACY.name: "test accuracy"}
_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\S*\d\S*")  # what differs between equal failures: names, numbers, architectures


@dataclass
class Progress:
    """Where a search stands."""

    trials: int  # asked for
    objective: Objective = field(default_factory=Objective)
    finished: int = 0
    stopped: int = 0
    failed: int = 0
    running: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0  # of all ended trials together
    mae: float | None = None  # of the newest fit, in units of the metric
    best: Mapping[str, Any] | None = None  # row of the best trial
    kinds: Counter[str] = field(default_factory=Counter)  # of failures
    reasons: dict[str, str] = field(default_factory=dict)  # kind -> the first reason of that kind
    last_failure: str | None = None  # its reason
    epochs: dict[str, int] = field(default_factory=dict)  # trial under way -> epochs that it has reported
    before: int = 0  # trials that had ended before this session,
    session_seconds: float = 0.0  # which goes on for so long
    front: Front = field(init=False)

    def __post_init__(self) -> None:
        self.front = Front(self.objective)

    @property
    def ended(self) -> int:
        """Trials that need nothing more."""
        return self.finished + self.stopped + self.failed

    @property
    def per_minute(self) -> float | None:
        """Trials that end in a minute of this session; None before any has."""
        ended = self.ended - self.before
        return 60 * ended / self.session_seconds if ended > 0 and self.session_seconds > 0 else None

    def pace(self) -> str:
        """How fast it goes, and how long it will go on, in words; empty where nothing is known."""
        if self.per_minute is None or self.ended >= self.trials:
            return ""
        rate = f"{self.per_minute:,.0f}" if self.per_minute >= 10 else f"{self.per_minute:.2g}"
        return f"{rate} a minute, about {lasting(60 * (self.trials - self.ended) / self.per_minute)} left"

    def count(self, status: str, train_seconds: float | None, error: str | None = None) -> None:
        """One more trial has ended; `error` says why it failed, where it did."""
        setattr(self, status, getattr(self, status) + 1)
        self.train_seconds += train_seconds or 0.0
        if status == "failed":
            kind, self.last_failure = kind_of(error or ""), error
            self.kinds[kind] += 1
            self.reasons.setdefault(kind, error or "no reason is known")

    def why(self, most: int = 3) -> list[str]:
        """The most frequent reasons of failures, each as "COUNT trials failed: REASON"; where they differ in numbers only, the first."""
        return [f"{n} trial{'s' * (n > 1)} failed: {self.reasons[kind]}" for kind, n in self.kinds.most_common(most)]


def lasting(seconds: float) -> str:
    """A time as people tell it."""
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def kind_of(error: str) -> str:
    """The same for all errors that differ in names, numbers and architectures only."""
    return _PARTICULAR.sub("", error)


def percent(value: float | None) -> str:
    """An accuracy in [0, 1] as people read it."""
    return "unknown" if value is None else f"{100 * value:.3f} %"


def title(metric: Metric) -> str:
    """A metric as people call it."""
    return _TITLES.get(metric.name, metric.name)


def shown(metric: Metric, value: float | None) -> str:
    """A value of a metric as people read it: fractions in percent, others with their unit."""
    if value is None or metric.unit == "fraction":
        return percent(value)
    number = f"{value:,.0f}" if float(value).is_integer() else f"{value:.6g}"
    return f"{number} {metric.unit}".rstrip()


class Display:
    """Shows the progress; nothing is drawn from another thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._shown = time.monotonic()
        if self._live is not None:
            self._live.start()

    def show(self, progress: Progress) -> None:
        """Redraws, if that was long enough ago."""
        if time.monotonic() - self._shown < (_LIVE_SECONDS if self._live else _LINE_SECONDS):
            return
        self._shown = time.monotonic()
        if self._live is not None:
            self._live.update(_table(progress), refresh=True)
        else:
            self.say(_line(progress))

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self, progress: Progress) -> None:
        """Takes the table away and leaves a last line."""
        if self._live is not None:
            self._live.stop()
        self.say(_line(progress))


def _line(progress: Progress) -> str:
    best = f"best {title(progress.objective.first)} none yet"
    if progress.best is not None:
        best = ", ".join(f"best {title(metric)} {_best(progress, metric)}" for metric in progress.objective.metrics)
    pace = progress.pace()
    return (
        f"{progress.ended}/{progress.trials} trials ({progress.finished} finished, {progress.stopped} stopped early, "
        f"{progress.failed} failed, {progress.running} running), {best}, {progress.seconds:.0f} s{pace and f' ({pace})'}"
    )


def _best(progress: Progress, metric: Metric) -> str:
    assert progress.best is not None
    return shown(metric, progress.best.get(metric.name))


def _table(progress: Progress) -> Table:
    table = Table(show_header=False)
    table.add_row("trials", f"{progress.ended} of {progress.trials}")
    table.add_row("", ProgressBar(progress.trials, progress.ended, width=24))
    if pace := progress.pace():
        table.add_row("pace", pace)
    table.add_row("ended", f"{progress.finished} finished, {progress.stopped} stopped early, {progress.failed} failed")
    table.add_row("running", f"{progress.running}{_epochs(progress)}")
    if progress.best is not None:
        for metric in (*progress.objective.metrics, TEST_ACCURACY):
            table.add_row(f"best {title(metric)}", _best(progress, metric))
        table.add_row("best architecture", Text(str(progress.best["arch_id"]), overflow="fold"))
    if progress.mae is not None:
        table.add_row("predictor's mean error", _error(progress.objective.first, progress.mae))
    if progress.last_failure is not None:
        table.add_row("last failure", Text(progress.last_failure[:200]))
    table.add_row("time", f"{progress.seconds:.0f} s")
    return table


def _epochs(progress: Progress) -> str:
    """How far the trials under way are, where they are few."""
    told = [f"{trial_id} {epoch}" for trial_id, epoch in progress.epochs.items() if epoch > 0]
    return f" (epochs: {', '.join(told)})" if 0 < len(told) <= _FEW else ""


def _error(metric: Metric, mae: float) -> str:
    return f"{100 * mae:.2f} points" if metric.unit == "fraction" else shown(metric, mae)
