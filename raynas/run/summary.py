"""What came of a run: an object for programs, and lines for people."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raynas import results, storage
from raynas.arch import Arch
from raynas.config import RunConfig
from raynas.drawing import as_text
from raynas.outcome import STATUSES, TEST_ACCURACY, VALID_ACCURACY, Objective
from raynas.results import Tables
from raynas.run.display import Progress, percent, shown, title
from raynas.run.fronts import Front
from raynas.spaces import make_space


@dataclass(frozen=True)
class Run:
    """A run as it stands, whether it has come to its end or not."""

    folder: str  # path or URI
    config: RunConfig
    objective: Objective
    tables: Tables  # trials, reports and started, see raynas.results
    best: dict[str, Any] | None  # what best.json holds: the best observed architecture and its metrics; None: no trial has succeeded
    recommended: Arch | None  # what the method advises to choose, where it does; of noisy results often not the best observed one
    trials: int  # asked for; of a one-shot search the architectures that it found
    why: tuple[str, ...] = ()  # the most frequent reasons of failures, with their counts
    exhausted: bool = False  # the space holds no more architectures
    front: Front | None = None  # of several objectives

    @property
    def counts(self) -> dict[str, int]:
        """How many trials ended as finished, stopped and failed."""
        ended = Counter(self.tables.trials["status"].to_pylist())
        return {status: ended[status] for status in STATUSES}

    @property
    def complete(self) -> bool:
        """Whether nothing is left to evaluate."""
        return self.exhausted or len(self.tables.trials) >= self.trials

    @property
    def failed(self) -> bool:
        """Whether no trial that has ended has succeeded, or a larger share of them failed than `max_failed_share`."""
        ended, failed = len(self.tables.trials), self.counts["failed"]
        if not ended:  # nothing was found to evaluate, unless all is known already
            return not self.exhausted
        return failed == ended or failed > self.config.max_failed_share * ended


def read_run(folder: str, config: RunConfig, objective: Objective, progress: Progress, exhausted: bool) -> Run:
    """The run whose files are in `folder`."""
    best = storage.read_mapping(folder, "best.json") if storage.exists(folder, "best.json") else None
    advised = best and best.get("recommended")
    recommended = Arch.from_config(advised) if advised else None
    why, front = tuple(progress.why()), progress.front if len(objective.metrics) > 1 else None
    return Run(folder, config, objective, results.read(folder), best, recommended, progress.trials, why, exhausted, front)


def lines(run: Run, optimum: float | None = None, hint: str | None = None) -> Iterator[str]:
    """The summary of a run; `optimum`: the best value of the metric there is, where known; `hint`: to the command that trains."""
    if run.best is not None:
        yield f"\nBest architecture: {run.best['arch_id']}"
        yield from _described(run, run.best["arch"], run.best, optimum)
    if run.best is not None and run.recommended is not None and run.recommended.id != run.best["arch_id"]:
        yield f"Recommended:       {run.recommended.id} (the best observed one may have been lucky)"
        rows = {row["arch_id"]: row for row in run.tables.trials.to_pylist()}
        yield from _described(run, run.recommended.to_config(), rows.get(run.recommended.id))
    if run.front is not None and run.front.rows:
        yield from _front(run.front)
    files = ["trials.parquet", "reports.parquet", *(["best.json"] if run.best else []), *(["front.parquet"] if run.front else [])]
    yield f"Results:     {run.folder} ({', '.join(files)})"
    if run.best is not None:
        yield f"Look at it:  python -m raynas.report {shlex.quote(run.folder)}"
        yield f"TensorBoard: tensorboard --logdir {shlex.quote(storage.join(run.folder, 'tensorboard'))}"
    if run.best is not None:
        yield f"Train it:    {run.best['train']}" + (f"   ({hint})" if hint else "")
    ended = len(run.tables.trials)
    if run.failed and ended:
        yield f"{run.counts['failed']} of {ended} trials failed, most often for these reasons:"
        yield from (f"  {reason}" for reason in run.why)
    if run.exhausted:
        yield f"The space holds no more architectures: {ended} of {run.trials} trials were possible."
    elif not run.complete:
        yield f"Interrupted after {ended} of {run.trials} trials. Go on with: {resume_command(run.folder)}"


def _front(front: Front) -> Iterator[str]:
    """The front of several objectives, in a line."""
    size = f"{len(front.rows)} architecture{'s' * (len(front.rows) != 1)}"
    volume = front.hypervolume
    if volume is None:
        yield f"Front:       {size}"
        return
    reference = ", ".join(f"{name} {value:.6g}" for name, value in front.reference.items())
    yield f"Front:       {size}, hypervolume {volume:.6g} above the worst of the first trials ({reference})"


def resume_command(folder: str) -> str:
    """The command line that goes on with a run."""
    return f"python -m raynas.search --resume {shlex.quote(folder)}"


def _cell(run: Run, arch: Mapping[str, Any]) -> Iterator[str]:
    """What an architecture is made of, in words."""
    try:
        space = make_space(run.config.space, run.config.space_options)
        yield from as_text(space, space.from_config(arch)).splitlines()
    except Exception:  # a space of one's own need not say how its architectures are drawn
        yield f"  {json.dumps(arch, separators=(',', ':'))}"


def _described(run: Run, arch: Mapping[str, Any], row: Mapping[str, Any] | None, optimum: float | None = None) -> Iterator[str]:
    """An architecture and its metrics: the objectives, the accuracies and the costs; `row`: None where another run evaluated it."""
    yield from _cell(run, arch)
    if row is None:
        yield "  evaluated in a run that --warm-start names"
        return
    metrics = {metric.name: metric for metric in (*run.objective.metrics, VALID_ACCURACY, TEST_ACCURACY)}
    for name, metric in metrics.items():
        value = row.get(name)
        if value is None and metric is VALID_ACCURACY:  # not what this run is about
            continue
        text = "not known" if value is None else shown(metric, value)
        if optimum is not None and value is not None and name == VALID_ACCURACY.name:
            text += f" ({100 * (optimum - value):.3f} points below the best of the table, {percent(optimum)})"
        yield f"  {title(metric):<19} {text}"
    if row.get("parameters") is not None:
        yield f"  {'parameters':<19} {row['parameters']:,}, {row['flops'] / 1e6:,.1f} M multiply-accumulates"
    for limit in run.objective.limits:
        if limit.over({key: value for key, value in row.items() if value is not None}) > 0:
            yield f"  beyond the limit {limit.metric}{limit.relation}{limit.bound:g}"
