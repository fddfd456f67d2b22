"""Tune schedulers by name, with defaults that fit epochs; and what makes their memory survive a restart."""

from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler, MedianStoppingRule

from raynas.registry import check_options, resolve
from raynas.results import Tables

_REDUCTION = 3  # of ASHA and HyperBand: the third that is best goes on

SCHEDULERS: dict[str, Any] = {
    "fifo": FIFOScheduler,
    "asha": ASHAScheduler,
    "hyperband": HyperBandScheduler,
    "median": MedianStoppingRule,
}


def make_scheduler(name: str, metric: str, mode: str, max_epochs: int | None, options: Mapping[str, Any] | None = None) -> Any:
    """The scheduler registered as `name`; `options` override the defaults.

    The first decision falls after max_epochs / 27 epochs, which leaves three rungs below a full evaluation: 4, 12 and 36 epochs
    of 108, as in NAS-Bench-101.

    Raises:
        UnknownNameError: no such scheduler, or it does not take one of the options.
    """
    factory = resolve(SCHEDULERS, name, "scheduler")
    checked = check_options(factory, options or {}, f"scheduler {name!r}")
    longest = max_epochs or 100
    first = max(1, longest // _REDUCTION**3)
    common = {"time_attr": "epoch", "metric": metric, "mode": mode}
    defaults: dict[Any, dict[str, Any]] = {
        ASHAScheduler: common | {"max_t": longest, "grace_period": first, "reduction_factor": _REDUCTION},
        HyperBandScheduler: common | {"max_t": longest, "reduction_factor": _REDUCTION},
        MedianStoppingRule: common | {"grace_period": first},
    }
    return factory(**(defaults.get(factory, {}) | checked))


def remembers(scheduler: Any) -> bool:
    """Whether a scheduler learns from reports one by one, so that repeating them restores it. Tune itself does not save it."""
    return isinstance(scheduler, (ASHAScheduler, MedianStoppingRule))


class NoController:
    """Stands for Tune's controller where a scheduler is shown trials of the past: none of them is alive."""

    def get_live_trials(self) -> set[Any]:
        """Nothing to yield to."""
        return set()


class _Past:
    """Stands for a trial that ended in an earlier session."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def show(scheduler: Any, trial: Any, reports: Sequence[Mapping[str, Any]]) -> None:
    """Gives `scheduler` earlier reports of a trial that it knows; what it decides about the past is of no interest."""
    for report in reports:
        scheduler.on_trial_result(NoController(), trial, dict(report))


def replay(scheduler: Any, tables: Tables) -> None:
    """Gives `scheduler` the reports of all trials that have ended, as if it had seen them."""
    reports: dict[str, list[dict[str, Any]]] = {trial_id: [] for trial_id in tables.trials["trial_id"].to_pylist()}
    for report in tables.reports.to_pylist():
        if report["trial_id"] in reports:
            reports[report["trial_id"]].append(report)
    for trial_id, made in reports.items():
        past = _Past(trial_id)
        scheduler.on_trial_add(NoController(), past)
        show(scheduler, past, made)
        if made:
            scheduler.on_trial_complete(NoController(), past, made[-1])
        else:
            scheduler.on_trial_remove(NoController(), past)
