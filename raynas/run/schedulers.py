"""Tune schedulers by name, with defaults that fit epochs; and what makes their memory survive a restart."""

from collections.abc import Mapping, Sequence
from itertools import count, takewhile
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler, MedianStoppingRule, TrialScheduler

from raynas.errors import ConfigError
from raynas.outcome import VALID_ACCURACY, as_number, budget_of
from raynas.registry import check_options, keywords, resolve
from raynas.results import Tables
from raynas.run.settings import SCHEDULERS
from raynas.storage import first_line
from searchers import Engine
from searchers.promotion import Promotion

_REDUCTION = 3  # of ASHA and HyperBand: the third that is best goes on
_TIME = "epoch"
_COMMANDS = ("metric", "mode", "time_attr")  # options that the command sets


class _Epochs:
    """Base of Tune schedulers that stop trials: reports without `epoch` count by their number, and those without a value, which would
    end the whole run, are not passed on."""

    def __init__(self, *, metric: str, **options: Any) -> None:
        super().__init__(metric=metric, **options)  # type: ignore[call-arg]
        self._value = metric

    def _told(self, result: Mapping[str, Any]) -> dict[str, Any] | None:
        budget = budget_of(result, _TIME)
        return None if budget is None or as_number(result.get(self._value)) is None else {**result, _TIME: budget}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        told = self._told(result)
        decision = TrialScheduler.CONTINUE
        if told is not None:
            decision = super().on_trial_result(tune_controller, trial, told)  # type: ignore[misc]
        return str(decision)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        told = self._told(result)
        if told is None:
            super().on_trial_remove(tune_controller, trial)  # type: ignore[misc]
        else:
            super().on_trial_complete(tune_controller, trial, told)  # type: ignore[misc]


class Asha(_Epochs, ASHAScheduler):  # type: ignore[misc]  # ray has no types
    """Asynchronous successive halving (Li et al. 2020, https://arxiv.org/abs/1810.05934)."""


class HyperBand(_Epochs, HyperBandScheduler):  # type: ignore[misc]  # ray has no types
    """HyperBand (Li et al. 2018, https://arxiv.org/abs/1603.06560)."""


class Median(_Epochs, MedianStoppingRule):  # type: ignore[misc]  # ray has no types
    """Stops what is below the median of the others (Golovin et al. 2017, https://doi.org/10.1145/3097983.3098043)."""


class BananasAsha(_Epochs, FIFOScheduler):  # type: ignore[misc]  # ray has no types
    """Trials stop at rungs, and those go on of which the method's model expects most: successive halving by forecasts.

    A trial goes on when a worker is free, as `searchers.promotion` says; it is a trial of its own, which begins where the stopped one
    ended. Methods that forecast nothing have their trials judged by their values, as ASHA's are.

    Args:
        max_t, grace_period, reduction_factor: rungs are at grace_period * reduction_factor ** k, as ASHA's, but not close to max_t, and
            fewer: forecasts lose less than ranks by looking early.
        exponent: of the trials that have reached a rung, (budget there / budget at the next) ** exponent go on.
    """

    def __init__(
        self,
        *,
        metric: str,
        max_t: int,
        time_attr: str = _TIME,
        grace_period: int = 1,
        reduction_factor: float = 5,
        exponent: float = 0.75,
    ) -> None:
        if not 0 < grace_period < max_t or reduction_factor <= 1:
            raise ConfigError(f"grace_period must be above 0 and below {max_t}, and reduction_factor above 1")
        FIFOScheduler.__init__(self)
        self._value = metric
        later = takewhile(lambda rung: rung * reduction_factor <= max_t, (grace_period * reduction_factor**k for k in count(1)))
        self.promotion = Promotion((grace_period, *later), max_t, exponent)
        self._engine: Engine | None = None

    def bind(self, engine: Engine) -> None:
        """Tells whose trials these are: without an engine nothing goes on, and nothing stops."""
        self._engine, engine.promotion = engine, self.promotion

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial stops."""
        told, engine = self._told(result), self._engine
        stops = told is not None and engine is not None and self.promotion.stops(engine.history, trial.config["arch"]["id"], told[_TIME])
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)


def make_scheduler(name: str, metric: str, mode: str, max_epochs: int | None, options: Mapping[str, Any] | None = None) -> Any:
    """The scheduler registered as `name`, or `module:Class`; `options` override the defaults.

    The first decision falls after max_epochs / 27 epochs, which leaves three rungs below a full evaluation: 4, 12 and 36 epochs
    of 108, as in NAS-Bench-101; for bananas-asha two, 4 and 20, or one of fewer than 25.

    Raises:
        UnknownNameError: no such scheduler, or it does not take one of the options.
        ConfigError: an option has a value that is not allowed or is not the user's to set, the class is no scheduler, or it stops trials
            and `max_epochs` is not known.
    """
    factory, options = resolve(SCHEDULERS, name, "scheduler"), options or {}
    if not (isinstance(factory, type) and issubclass(factory, TrialScheduler)):
        raise ConfigError(f"the scheduler {name!r} is no class of Tune schedulers; derive it from ray.tune.schedulers.TrialScheduler")
    for option in _COMMANDS:
        if option in options:
            raise ConfigError(f"{option} is no option of the scheduler here; the command sets it")
    checked = check_options(factory, options, f"scheduler {name!r}")
    if factory is FIFOScheduler:
        return factory()
    if max_epochs is None:
        raise ConfigError(f"the scheduler {name!r} stops trials early, so it must know the budget of a full evaluation: give --max-epochs")
    defaults: dict[str, Any] = {"time_attr": _TIME, "metric": metric, "mode": mode, "max_t": max_epochs}
    if name in SCHEDULERS:
        defaults["grace_period"] = max(1, max_epochs // _REDUCTION**3)
        if factory is not BananasAsha:
            defaults["reduction_factor"] = _REDUCTION
    known = keywords(factory)
    return _made(factory, name, {key: value for key, value in defaults.items() if key in known} | checked)


def _made(factory: Any, name: str, options: dict[str, Any]) -> Any:
    try:
        if not options.get("reduction_factor", _REDUCTION) > 1:
            raise ValueError("reduction_factor must be above 1")
        with np.errstate(all="raise"):
            return factory(**options)
    except Exception as error:  # whatever a constructor finds wrong with the options of a user
        shown = ", ".join(f"{key}={value!r}" for key, value in options.items() if key not in _COMMANDS) or "no options"
        problem = f"the scheduler {name!r} cannot be made with {shown}: {first_line(error)}"
        raise ConfigError(f"{problem}; change scheduler_options, or --max-epochs") from error


def remembers(scheduler: Any) -> bool:
    """Whether a scheduler learns from reports one by one, so that repeating them restores it. Tune itself does not save it."""
    return isinstance(scheduler, (ASHAScheduler, MedianStoppingRule))


class NoController:
    """Stands for Tune's controller where a scheduler is told of trials of the past: none of them is alive."""

    def get_live_trials(self) -> set[Any]:
        """Nothing to yield to."""
        return set()


class _Past:
    """Stands for a trial that ended in an earlier session."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


def retell(scheduler: Any, trial: Any, reports: Sequence[Mapping[str, Any]], metric: str = VALID_ACCURACY.name) -> None:
    """Gives `scheduler` earlier reports of a trial that it knows; what it decides about the past is of no interest.

    The median rule is only told what was reported: it would take a trial that went on in the past for one that it has stopped now, by
    hindsight, and refuse its next report.
    """
    decides = not isinstance(scheduler, MedianStoppingRule)
    for report in reports:
        if report.get(metric) is not None:
            (scheduler.on_trial_result if decides else scheduler.on_trial_complete)(NoController(), trial, dict(report))


def replay(scheduler: Any, tables: Tables, metric: str = VALID_ACCURACY.name) -> None:
    """Gives `scheduler` the reports of all trials that have ended, as if it had seen them; `metric` is the one that it decides by."""
    statuses = dict(zip(tables.trials["trial_id"].to_pylist(), tables.trials["status"].to_pylist(), strict=True))
    reports: dict[str, list[dict[str, Any]]] = {trial_id: [] for trial_id in statuses}
    for report in tables.reports.to_pylist():
        if report["trial_id"] in reports and report.get(metric) is not None:
            reports[report["trial_id"]].append(report)
    for trial_id, made in reports.items():
        past = _Past(trial_id)
        scheduler.on_trial_add(NoController(), past)
        # As Tune does: it asks about every report but the one with which a trial ends by itself.
        retell(scheduler, past, made if statuses[trial_id] == "stopped" else made[:-1], metric)
        if made:
            scheduler.on_trial_complete(NoController(), past, made[-1])
        else:
            scheduler.on_trial_remove(NoController(), past)
