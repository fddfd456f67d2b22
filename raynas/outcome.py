"""How an evaluation ended, what was measured, and what is best: the one rule, for everything that asks.

A trial reports numbers under the names of metrics. What is known of a metric is declared once, here or by whoever reports it; an
`Objective` turns the numbers into a vector to be maximised. m: objectives, l: limits.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, get_args

from raynas.errors import ConfigError
from raynas.registry import unknown

Status = Literal["finished", "stopped", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)
Fault = Literal["architecture", "machine", "timeout"]
"""What a failed evaluation is laid to: the architecture (its own exception, or a report that is none), the machine, or that it hung."""
FAULTS: tuple[Fault, ...] = get_args(Fault)
Direction = Literal["max", "min"]


@dataclass(frozen=True)
class Metric:
    """What is known of a number that trials report."""

    name: str
    direction: Direction | None = None  # which values are better; None: neither
    unit: str = ""
    description: str = ""
    searched: bool = True  # whether a search may see it: test accuracies are for reports only
    low: float = -math.inf  # a value outside of [low, high] is a mistake
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.direction not in (None, *get_args(Direction)):
            raise ConfigError(f"the direction of the metric {self.name} must be max or min, not {self.direction!r}")

    def problem(self, value: Any) -> str | None:
        """Why `value` is none of this metric, in words; None where it is one."""
        number = as_number(value)
        if number is None:
            return f"{self.name} is {value!r}, not a finite number"
        if self.low <= number <= self.high:
            return None
        hint = "accuracies are fractions" if (self.low, self.high) == (0, 1) else "that is what was declared"
        return (
            f"{self.name} = {number:.10g} is outside of [{self.low:g}, {self.high:g}]: {hint}; "
            f"or declare another range, as by --set metrics.{self.name}.high=100"
        )


VALID_ACCURACY = Metric(
    "valid_accuracy", "max", "fraction", "accuracy on the validation images, which a search may be after", low=0.0, high=1.0
)
TEST_ACCURACY = Metric(
    "test_accuracy", "max", "fraction", "accuracy on the test images, which no search sees", searched=False, low=0.0, high=1.0
)
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        VALID_ACCURACY,
        TEST_ACCURACY,
        Metric("train_loss", "min", "", "mean loss of the last epoch on the training images"),
        Metric("parameters", "min", "weights", "of the network of the space's publication, counted from the architecture alone", low=0.0),
        Metric("flops", "min", "multiply-accumulates", "of one forward pass of that network on one image, counted likewise", low=0.0),
        Metric("train_seconds", "min", "s", "spent on training, as the table or the training says", low=0.0),
        # The following are measured by whoever runs and records a trial.
        Metric("wall_seconds", "min", "s", "by the clock since the trial started", searched=False, low=0.0),
        Metric(
            *("peak_memory", "min", "bytes"),
            "largest resident set of the process that ran the trial last, with libraries and shared pages, without child processes; of a "
            "process that ran other trials before since this one took over, null where the system cannot tell (other than Linux)",
            low=0.0,
        ),
        Metric(
            *("peak_gpu_memory", "min", "bytes"),
            "largest sum of PyTorch's tensors on the GPUs of that process, without CUDA's own and cached memory; null without a GPU",
            low=0.0,
        ),
    )
}
COSTS = ("parameters", "flops")  # what a space computes from an architecture alone (`SearchSpace.cost`), before any trial

# What Tune itself adds to a report, and what reports hold beside metrics.
_TUNE = """epoch training_iteration time_this_iter_s time_total_s timestamp pid iterations_since_restore time_since_restore timesteps_total
    timesteps_since_restore timesteps_this_iter episodes_total episodes_this_iter num_env_steps_trained checkpoint_dir_name date trial_id
    done should_checkpoint hostname node_ip config experiment_tag trial_log_path wall_seconds"""
_NO_METRICS = frozenset(_TUNE.split())
ADDED = frozenset({"peak_memory", "peak_gpu_memory"})  # to every report, see raynas/run/memory.py
_LARGEST = 2.0**53  # budget that a float holds exactly


def as_number(value: Any) -> float | None:
    """`value` as a float, None where it is no finite number: texts, truth values, NaN and infinities are none."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__") or getattr(value, "shape", ()) != ():
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # a number beyond all floats, a tensor without data
        return None
    return number if math.isfinite(number) else None


def measured(report: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a report that are metrics, declared or not."""
    pairs = ((key, as_number(value)) for key, value in report.items() if key not in _NO_METRICS and not key.startswith("config/"))
    return {key: number for key, number in pairs if number is not None}


def budget_of(report: Mapping[str, Any], time_attr: str = "epoch") -> float | None:
    """The budget that a report tells: its `time_attr`, or else how many reports there were; None where neither is told."""
    budget = as_number(report.get(time_attr, report.get("training_iteration")))
    return budget if budget is not None and 0 <= budget <= _LARGEST else None


def declare(declarations: Mapping[str, Mapping[str, Any]], known: Mapping[str, Metric] = METRICS) -> dict[str, Metric]:
    """`known`, changed and extended by fields of `Metric` by name: {"latency": {"direction": "min", "unit": "ms"}}.

    Raises:
        UnknownNameError: a field does not exist.
        ConfigError: a value is not allowed.
    """
    declared = dict(known)
    allowed = [f.name for f in fields(Metric) if f.name != "name"]
    for name, changes in declarations.items():
        if not isinstance(changes, Mapping):
            raise ConfigError(f"metrics.{name} takes {', '.join(allowed)}, as in metrics.{name}.direction=min; not {changes!r}")
        for key in changes:
            if key not in allowed:
                raise unknown(f"field of metrics.{name}", key, allowed)
        for key in ("low", "high"):
            if key in changes and (isinstance(changes[key], bool) or not isinstance(changes[key], (int, float))):
                raise ConfigError(f"metrics.{name}.{key} must be a number, not {changes[key]!r}")
        for key in ("unit", "description"):
            if not isinstance(changes.get(key, ""), str):
                raise ConfigError(f"metrics.{name}.{key} must be a text, not {changes[key]!r}")
        declared[name] = replace(declared.get(name, Metric(name)), **changes)
    return declared


@dataclass(frozen=True)
class Outcome:
    """How the evaluation of an architecture ended."""

    status: Status
    budget: float = 0.0  # spent at the last report
    metrics: Mapping[str, float] = field(default_factory=dict)  # finite numbers of the last report
    error: str | None = None  # why it failed, in one line


_LIMIT = re.compile(r"\s*([^\s<>=]+)\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Limit:
    """What a metric must keep: `parameters <= 3.5e6`."""

    metric: str
    relation: Literal["<=", ">="]
    bound: float
    declared: Metric | None = field(default=None, compare=False)  # what is known of the metric

    @classmethod
    def parse(cls, text: str, declared: Mapping[str, Metric] = METRICS) -> "Limit":
        """The limit that `text` states.

        Raises:
            ConfigError: it has another form than METRIC<=NUMBER or METRIC>=NUMBER.
        """
        match = _LIMIT.fullmatch(text)
        try:
            assert match is not None
            return cls(match[1], match[2], float(match[3]), declared.get(match[1]))  # type: ignore[arg-type]  # these two alone
        except (AssertionError, ValueError):
            raise ConfigError(f"a limit has the form METRIC<=NUMBER or METRIC>=NUMBER, as parameters<=3.5e6, not {text!r}") from None

    def over(self, metrics: Mapping[str, float]) -> float:
        """By how much of the bound the metric is beyond it, below 0 where it is kept; infinite where the metric is not known."""
        if self.metric not in metrics:
            return math.inf
        over = metrics[self.metric] - self.bound
        return (over if self.relation == "<=" else -over) / max(abs(self.bound), 1e-12)


@dataclass(frozen=True)
class Objective:
    """What a search is after: one metric or several, within limits. With one entry, and no limits, everything is as the metric says."""

    metrics: tuple[Metric, ...] = (VALID_ACCURACY,)  # (m,) each with a direction
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) < len(names):
            raise ConfigError(f"each objective may occur once, not {', '.join(names)}")
        for metric in (*self.metrics, *(limit.declared for limit in self.limits if limit.declared is not None)):
            if not metric.searched:
                raise ConfigError(f"{metric.name} is reported at the end; a search must not see it, so it is no objective and has no limit")

    @classmethod
    def parse(cls, entries: Sequence[str] = (), limits: Sequence[str] = (), declared: Mapping[str, Metric] = METRICS) -> "Objective":
        """The objective that a user states: `valid_accuracy`, `-latency` (to be minimised), and limits as `parameters<=3.5e6`.

        Without a sign a metric is optimised in its declared direction, and one that is not declared is maximised.

        Raises:
            ConfigError: a metric occurs twice, or is not for the eyes of a search; or a limit is none.
        """
        chosen = []
        for entry in entries or [VALID_ACCURACY.name]:
            name = entry.strip().removeprefix("-").strip()
            if not name:
                raise ConfigError(f"an objective is the name of a metric, with a minus to minimise it, as -latency; not {entry!r}")
            metric = declared.get(name, Metric(name))
            chosen.append(replace(metric, direction="min" if entry.strip().startswith("-") else metric.direction or "max"))
        return cls(tuple(chosen), tuple(Limit.parse(limit, declared) for limit in limits))

    @property
    def first(self) -> Metric:
        """The metric that decides where one number is needed."""
        return self.metrics[0]

    def vector(self, metrics: Mapping[str, Any]) -> tuple[float, ...] | None:
        """(m,) the values, turned so that higher is better; None where one is missing or no finite number."""
        values = [as_number(metrics.get(metric.name)) for metric in self.metrics]
        if None in values:
            return None
        return tuple(-v if metric.direction == "min" else v for v, metric in zip(values, self.metrics, strict=True) if v is not None)

    def value(self, report: Mapping[str, Any]) -> float | None:
        """The first objective in a report, turned likewise; None where it is missing or not allowed."""
        given = report.get(self.first.name)
        if given is None or self.first.problem(given) is not None:
            return None
        return -float(given) if self.first.direction == "min" else float(given)

    @property
    def measured_limits(self) -> list[int]:
        """Which of the limits are on what only a trial tells, by their indices."""
        return [i for i, limit in enumerate(self.limits) if limit.metric not in COSTS]

    @property
    def single(self) -> bool:
        """Whether there is one objective, and all limits are on what is known before any trial."""
        return len(self.metrics) == 1 and not self.measured_limits

    def over(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """(l,) by how much each limit is broken, see `Limit.over`."""
        return tuple(limit.over(metrics) for limit in self.limits)

    def known_excess(self, costs: Mapping[str, float]) -> float:
        """How far those limits are broken that concern `costs`, what is known before any trial."""
        return excess_of(limit.over(costs) for limit in self.limits if limit.metric in costs)

    def judge(
        self,
        report: Mapping[str, Any] | None,
        max_budget: float | None = None,
        *,
        error: str | None = None,
        costs: Mapping[str, float] | None = None,
        time_attr: str = "epoch",
    ) -> Outcome:
        """What the evaluation came to that ended with `report`, its last one.

        Args:
            report: None or empty where the trial never reported.
            max_budget: a trial that ends below it was stopped; None: none is. A report that tells no budget is one of a full evaluation.
            error: why it failed, where it did.
            costs: what is known of the architecture, see COSTS; it takes the place of what was reported.
        """
        report = report or {}
        metrics, told = measured(report) | dict(costs or {}), budget_of(report, time_attr)
        budget = (max_budget or 0.0) if told is None else told
        if error is None:
            error = self._problem(report, costs or {})
        if error is not None:
            return Outcome("failed", budget, metrics, error)
        return Outcome("stopped" if max_budget is not None and budget < max_budget else "finished", budget, metrics)

    def _problem(self, report: Mapping[str, Any], costs: Mapping[str, float]) -> str | None:
        """Why a last report is none: a number that the objective or a limit needs is missing, or is none."""
        limited = (limit.declared or Metric(limit.metric) for limit in self.limits)
        for metric in {metric.name: metric for metric in (*limited, *self.metrics)}.values():
            value = costs.get(metric.name, report.get(metric.name))
            if value is None:
                came = ", ".join(key for key in report if key not in (_NO_METRICS | ADDED) - {"epoch"}) or "nothing"
                return f"the last report has no {metric.name}; it has {came}"
            if (problem := metric.problem(value)) is not None:
                return problem
        return None

    def merit(self, outcome: Outcome) -> "Merit | None":
        """By which outcomes are ordered; None for a failed one."""
        vector = None if outcome.status == "failed" else self.vector(outcome.metrics)
        return None if vector is None else Merit(-excess_of(self.over(outcome.metrics)), outcome.status == "finished", vector)


def excess_of(over: Iterable[float]) -> float:
    """How far limits are broken, all together, that are each broken by so much; 0 where all are kept."""
    return sum(max(0.0, each) for each in over)


class Merit(NamedTuple):
    """The order of outcomes, the best being the largest.

    What keeps the limits comes before what does not, a full evaluation before one that was stopped; then the objectives decide, the
    first one first.
    """

    within: float  # minus the excess over the limits
    full: bool
    vector: tuple[float, ...]  # (m,)
