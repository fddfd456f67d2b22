"""The columns of a run's tables: their names, types, units and descriptions, which every file of them carries.

A field of a schema has the metadata `description` and, where it has one, `unit`. DuckDB does not see those of fields; so each file has the
key `columns` besides, a JSON list of `name`, `unit` and `description`.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from raynas.errors import ConfigError
from raynas.outcome import COSTS, METRICS, Metric, Objective

COLUMNS = "columns"  # key in the metadata of a file
TIME = pa.timestamp("us", tz="UTC")
_TOLD = (b"description", b"unit")
_TEXT, _WHOLE, _NUMBER = pa.string(), pa.int64(), pa.float64()


def _column(name: str, kind: Any, description: str, unit: str = "", *, required: bool = False) -> Any:
    told = {"description": description, "unit": unit}
    return pa.field(name, kind, nullable=not required, metadata={key: text for key, text in told.items() if text})


def _metric(metric: Metric) -> Any:
    return _column(metric.name, _WHOLE if metric.name in COSTS else _NUMBER, metric.description, metric.unit)


_TRIAL = [
    _column("order", _WHOLE, "place of the trial among all, from 0, as they began", required=True),
    _column("trial_id", _TEXT, "name of the trial, once in a run", required=True),
    _column("arch_id", _TEXT, "architecture, the same for equal ones", required=True),
    _column("arch", _TEXT, "architecture as JSON, as `from_config` of its space reads it", required=True),
]
_STARTED_AT = _column("started_at", TIME, "when the trial began, in UTC")
_ORIGIN = [
    _column(
        *("proposed_by", _TEXT),
        "how the trial came about: `initial` (random, before the method takes over), `prior` (there, one of the best of another run), "
        "`model`, `mutation`, `random`, `promotion` (stopped before, it goes on), `stopgap` (while a model was fitted and nothing was "
        "left of its last proposal), `given` (named beforehand, or of an earlier session), or `method`",
    ),
    _column("parent", _TEXT, "`arch_id` of the architecture that it is a mutation of"),
    _column("acquisition", _NUMBER, "value of the acquisition function by which it was chosen; higher is better"),
    _column("predicted", _NUMBER, "what the model expected of the first objective", "that of the objective"),
    _column("predicted_deviation", _NUMBER, "standard deviation of that prediction", "that of the objective"),
    _column("queue_seconds", _NUMBER, "from the proposal to the start", "s"),
]
TRIALS = pa.schema(
    [
        *_TRIAL,
        _column("status", _TEXT, "`finished`, `stopped` (early, by the scheduler) or `failed`", required=True),
        _column("epochs", _WHOLE, "at the last report", "epochs"),
        *(_metric(metric) for name, metric in METRICS.items() if name != "train_loss"),
        _STARTED_AT,
        _column("ended_at", TIME, "when it ended, in UTC"),
        _column("error", _TEXT, "why it failed, in one line"),
        _column("error_file", _TEXT, "file in the run folder with the whole text of that error; null where its last report was none"),
        _column(
            *("log_path", _TEXT),
            "file in the run folder with the errors of all its tries, those too that a later one made good; null where none raised any: "
            "what trials print is in the output of the search and, while Ray lives, in its logs on the `node`",
        ),
        _column(
            "fault",
            _TEXT,
            "what its last failure is laid to: `machine`, `timeout`, or `architecture` (its own error, or a report that is none)",
        ),
        _column("retries", _WHOLE, "how often it was tried again in the session in which it ended", "tries"),
        _column("node", _TEXT, "host and address that it ran on last"),
        _column("device", _TEXT, "what it ran on last, as its trainable says, or else as was asked for"),
        _column("run_id", _TEXT, "name of the run, as in config.json"),
        _column("cpus", _NUMBER, "CPU cores that it held", "cores"),
        _column("gpus", _NUMBER, "GPUs that it held", "GPUs"),
        *_ORIGIN,
    ]
)
REPORTS = pa.schema(
    [
        _column("trial_id", _TEXT, "name of the trial, as in trials.parquet", required=True),
        _column("epoch", _WHOLE, "epochs until this report, or else how many reports there were", "epochs", required=True),
        *(_metric(metric) for name, metric in METRICS.items() if name not in COSTS),
    ]
)
STARTED = pa.schema(
    [
        *_TRIAL,
        _STARTED_AT.with_nullable(False),
        _column("checkpoint", _TEXT, "the last one, as JSON"),
        _column("budget", _NUMBER, "epochs that the method allowed; null for a full evaluation", "epochs"),
        *_ORIGIN,
    ]
)
SCHEMAS = {"started": STARTED, "reports": REPORTS, "trials": TRIALS}  # in the order in which a flush writes them
RESERVED = frozenset(name for schema in SCHEMAS.values() for name in schema.names) - METRICS.keys()  # no names for metrics


def check_names(objective: Objective) -> None:
    """Refuses an objective or a limit that cannot be recorded.

    Raises:
        ConfigError: its metric has the name of a column of another meaning.
    """
    for name in [*(metric.name for metric in objective.metrics), *(limit.metric for limit in objective.limits)]:
        if name in RESERVED:
            raise ConfigError(f"{name} is a column of the tables that is no metric; report the metric under another name")


def with_metrics(kind: str, names: Iterable[str], read: Any = ()) -> Any:
    """The schema of a table with those columns among `names` that are no fixed ones, as metrics; described as in `read`, where it does."""
    fixed = SCHEMAS[kind]
    fields = [*fixed, *(pa.field(name, _NUMBER) for name in sorted(set(names) - set(fixed.names)))]
    told = {field.name: {key: field.metadata[key] for key in _TOLD if key in (field.metadata or {})} for field in read}
    return pa.schema([field.with_metadata(told.get(field.name) or field.metadata or {}) for field in fields])


def described(table: Any, metrics: Mapping[str, Metric]) -> Any:
    """The table as it is written: what `metrics` declares takes the place of what it says of them; with the key for other readers."""
    schema, fields = table.schema, []
    for field in schema:
        declared = metrics.get(field.name)
        told = dict(field.metadata or {}) if declared is None else dict(_metric(declared).metadata or field.metadata or {})
        fields.append(field.with_metadata(told))
    columns = [
        {"name": f.name} | {key.decode(): f.metadata[key].decode() if key in (f.metadata or {}) else None for key in _TOLD} for f in fields
    ]
    return table.cast(pa.schema(fields, metadata={COLUMNS: json.dumps(columns, ensure_ascii=False)}))
