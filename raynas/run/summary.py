"""What came of a run: an object for programs, and lines for people."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raynas import results, storage
from raynas.arch import Arch
from raynas.config import RunConfig
from raynas.outcome import METRICS, STATUSES, TEST_ACCURACY, VALID_ACCURACY, Metric, Objective
from raynas.results import Tables
from raynas.run.display import percent

_NAMES = {VALID_ACCURACY.name: "validation accuracy", TEST_ACCURACY.name: "test accuracy"}
_REASONS = 3  # most frequent ones that are shown


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
    exhausted: bool = False  # the space holds no more architectures

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
        return failed == ended or failed > self.config.max_failed_share * ended

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Why trials failed, the most frequent reason first, and how often; texts that differ in numbers alone count as one."""
        errors = [row["error"] or "no reason is known" for row in self.tables.trials.to_pylist() if row["status"] == "failed"]
        first: dict[str, str] = {}
        counts = Counter(_without_numbers(error) for error in errors)
        for error in errors:
            first.setdefault(_without_numbers(error), error)
        return [(first[key], count) for key, count in counts.most_common()]


def read_run(folder: str, config: RunConfig, objective: Objective, trials: int, exhausted: bool) -> Run:
    """The run whose files are in `folder`."""
    best = storage.read_json(folder, "best.json") if storage.exists(folder, "best.json") else None
    advised = best and best.get("recommended")
    recommended = Arch.from_config(advised) if advised else None
    return Run(folder, config, objective, results.read(folder), best, recommended, trials, exhausted)


def _without_numbers(text: str) -> str:
    return re.sub(r"\b(?=\w*\d)\w+", "#", text)


def lines(run: Run, optimum: float | None = None, hint: str | None = None) -> Iterator[str]:
    """The summary of a run; `optimum`: the best value of the metric there is, where known; `hint`: to the command that trains."""
    if run.best is not None:
        yield f"\nBest architecture: {run.best['arch_id']}"
        yield from _described(run, run.best["arch"], run.best, optimum)
    if run.best is not None and run.recommended is not None and run.recommended.id != run.best["arch_id"]:
        yield f"Recommended:       {run.recommended.id} (the best observed one may have been lucky)"
        rows = {row["arch_id"]: row for row in run.tables.trials.to_pylist()}
        yield from _described(run, run.recommended.to_config(), rows.get(run.recommended.id, {}))
    yield f"Results:     {run.folder} (trials.parquet, reports.parquet, best.json)"
    yield f"TensorBoard: tensorboard --logdir {shlex.quote(storage.join(run.folder, 'tensorboard'))}"
    if run.best is not None:
        yield f"Train it:    {run.best['train']}" + (f"   ({hint})" if hint else "")
    ended = len(run.tables.trials)
    if run.failed and ended:
        yield f"{run.counts['failed']} of {ended} trials failed, most often for these reasons:"
        yield from (f"  {count} x {reason}" for reason, count in run.reasons[:_REASONS])
    if run.exhausted:
        yield f"The space holds no more architectures: {ended} of {run.trials} trials were possible."
    elif not run.complete:
        yield f"Interrupted after {ended} of {run.trials} trials. Go on with: python -m raynas.search --resume {shlex.quote(run.folder)}"


def _described(run: Run, arch: Mapping[str, Any], row: Mapping[str, Any], optimum: float | None = None) -> Iterator[str]:
    """An architecture and its metrics: the objectives, the accuracies and the costs."""
    yield f"  {json.dumps(arch, separators=(',', ':'))}"
    names = dict.fromkeys([*(metric.name for metric in run.objective.metrics), *_NAMES])
    known = METRICS | {metric.name: metric for metric in run.objective.metrics}
    for name in names:
        value = row.get(name)
        if value is None and name == VALID_ACCURACY.name:
            continue
        text = "not known" if value is None else shown(known[name], value)
        if optimum is not None and value is not None and name == run.objective.first.name:
            text += f" ({100 * (optimum - value):.3f} points below the best of the table, {percent(optimum)})"
        yield f"  {_NAMES.get(name, name):<19} {text}"
    if row.get("parameters") is not None:
        yield f"  {'parameters':<19} {row['parameters']:,}, {row['flops'] / 1e6:,.1f} M multiply-accumulates"
    broken = [limit for limit in run.objective.limits if limit.excess({k: v for k, v in row.items() if v is not None}) > 0]
    for limit in broken if row else ():
        yield f"  beyond the limit {limit.metric}{limit.relation}{limit.bound:g}"


def shown(metric: Metric, value: float) -> str:
    """A value as people read it: a fraction in percent, anything else with its unit."""
    return percent(value) if metric.unit == "fraction" else f"{value:g} {metric.unit}".rstrip()
