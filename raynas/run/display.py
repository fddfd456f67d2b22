"""What a person sees while a search runs: a live table on a terminal, a line now and then anywhere else."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

_LIVE_SECONDS = 0.25  # between two redrawings
_LINE_SECONDS = 10.0  # between two lines where the output is no terminal


@dataclass
class Progress:
    """Where a search stands."""

    trials: int  # asked for
    finished: int = 0
    stopped: int = 0
    failed: int = 0
    running: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0  # of all ended trials together
    mae: float | None = None  # of the newest fit, in units of the metric
    best: Mapping[str, Any] | None = field(default=None)  # row of the best trial

    @property
    def ended(self) -> int:
        """Trials that need nothing more."""
        return self.finished + self.stopped + self.failed

    def count(self, status: str, train_seconds: float | None) -> None:
        """One more trial has ended."""
        setattr(self, status, getattr(self, status) + 1)
        self.train_seconds += train_seconds or 0.0


def percent(value: float | None) -> str:
    """An accuracy in [0, 1] as people read it."""
    return "unknown" if value is None else f"{100 * value:.3f} %"


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
            self._console.print(_line(progress), highlight=False, soft_wrap=True)

    def close(self, progress: Progress) -> None:
        """Takes the table away and leaves a last line."""
        if self._live is not None:
            self._live.stop()
        self._console.print(_line(progress), highlight=False, soft_wrap=True)


def _line(progress: Progress) -> str:
    best = percent(progress.best["valid_accuracy"]) if progress.best else "none yet"
    return (
        f"{progress.ended}/{progress.trials} trials ({progress.finished} finished, {progress.stopped} stopped early, "
        f"{progress.failed} failed, {progress.running} running), best validation accuracy {best}, {progress.seconds:.0f} s"
    )


def _table(progress: Progress) -> Table:
    table = Table(title="raynas search", title_justify="left", show_header=False)
    table.add_row("trials", f"{progress.ended} of {progress.trials}")
    table.add_row("finished / stopped early / failed", f"{progress.finished} / {progress.stopped} / {progress.failed}")
    table.add_row("running", str(progress.running))
    if progress.best is not None:
        table.add_row("best validation accuracy", percent(progress.best["valid_accuracy"]))
        table.add_row("best test accuracy", percent(progress.best.get("test_accuracy")))
        table.add_row("best architecture", str(progress.best["arch_id"]))
    table.add_row("predictor's mean error", "no fit yet" if progress.mae is None else f"{100 * progress.mae:.2f} points")
    table.add_row("time", f"{progress.seconds:.0f} s")
    return table
