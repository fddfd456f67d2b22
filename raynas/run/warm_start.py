"""What is known before a run begins: results of its own earlier sessions, and of other runs of the same space."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from raynas import storage
from raynas.config import RunConfig, make_config
from raynas.errors import ConfigError, ResultsError, TableError
from raynas.history import Observation
from raynas.results import Tables
from raynas.run.resume import arch_of, read_earlier
from raynas.run.settings import plain
from raynas.spaces import SearchSpace
from raynas.tables import Table
from raynas.trust import is_own
from searchers import Engine

_MACHINE = frozenset({"cuda_graphs", "data_dir", "device", "latency", "seconds_per_report"})  # options that change no accuracy


def observations(engine: Engine, space: SearchSpace, tables: Tables) -> Iterator[Observation]:
    """What the trials in `tables` that have ended say, in the eyes of the search that `engine` is.

    A trial that did not fail but lacks a number that the objective of this search needs says nothing.
    """
    name = engine.objective.first.name
    curves: dict[str, list[tuple[float, float]]] = {}
    for report in tables.reports.to_pylist():
        if report.get(name) is not None:
            curves.setdefault(report["trial_id"], []).append((report["epoch"], report[name]))
    for row in tables.trials.to_pylist():
        error = (row["error"] or "it failed") if row["status"] == "failed" else None
        told = engine.observation(arch_of(row, space), row | {"epoch": row["epochs"]}, curves.get(row["trial_id"], []), error=error)
        if told.status == "stopped" and row["status"] == "finished":
            told = replace(told, status="finished")  # where a full evaluation takes less than here
        if told.status != "failed" or error is not None:
            yield told


def dataset_of(config: RunConfig) -> str:
    """The data set of a run: a table that is looked up in says itself of which it is.

    Raises:
        TableError: the table is missing or damaged.
    """
    return Table.open(config.table).dataset if config.trainable == "lookup" and config.table is not None else config.dataset


class Other(NamedTuple):
    """Another run of the same space."""

    uri: str
    tables: Tables
    differs: str  # what makes its results a prior, in words; empty: they count as data

    def line(self, results: int, engine: Engine) -> str:
        """What becomes of so many results as a prior, for people."""
        learns = engine.method.informed and engine.objective.single
        use = f"its best come first, among random ones, and {'the model learns what differs' if learns else 'nothing else of it is used'}"
        if engine.method.num_initial == 0:
            use = "a one-shot search makes no use of it"
        return f"prior: {results} results of {self.uri} ({self.differs}): {use}"


def other_runs(config: RunConfig, uri: str, epochs: int | None) -> list[Other]:
    """The runs that `config.warm_start` names; `epochs`: of a full evaluation in the run at `uri`, where known.

    Raises:
        ResultsError: one of them is missing or damaged.
        ConfigError: it is this run itself, or of another space.
    """
    return [_other(config, uri, other, epochs) for other in config.warm_start]


def _other(config: RunConfig, uri: str, other: str, epochs: int | None) -> Other:
    if storage.filesystem(other) == storage.filesystem(uri):
        raise ConfigError(f"--warm-start {other} is this run's own folder; name another run, or go on with this one by --resume")
    try:
        theirs = _config(other)
        tables = read_earlier(other)
        data = (config.dataset,) * 2 if theirs.table == config.table is not None else (dataset_of(theirs), dataset_of(config))
    except (ResultsError, TableError) as error:
        raise ResultsError(f"--warm-start {other}: {error}") from error
    spaces = {"space": (theirs.space, config.space), "options of the space": (theirs.space_options, config.space_options)}
    for what, (there, here) in spaces.items():
        if there != here:
            raise ConfigError(f"--warm-start {other}: that run is of another {what}, {there} and not {here}; its results say nothing here")
    full = max((row["epochs"] or 0 for row in tables.trials.to_pylist() if row["status"] == "finished"), default=0)
    pairs: dict[str, tuple[Any, Any]] = {
        "data set": data,
        "trainable": (theirs.trainable, config.trainable),
        "number of epochs": (full or epochs or 0, epochs or full),
    }
    words = [f"another {what}, {there} and not {here}" for what, (there, here) in pairs.items() if there != here]
    if theirs.recipe != config.recipe or _of_results(theirs) != _of_results(config):
        words.append("other settings of the training")
    return Other(other, tables, " and ".join(words))


def _of_results(config: RunConfig) -> dict[str, Any]:
    """The options of trials on which results depend."""
    return {key: value for key, value in config.trainable_options.items() if key not in _MACHINE}


def _config(uri: str) -> RunConfig:
    """That of another run, whose own code says nothing here and is not loaded, but for what `plain` must look at in runs of one's own."""
    stored = storage.read_config(uri)
    trainable = stored.get("trainable")
    if ":" not in str(trainable) or is_own(uri):
        return make_config(plain(stored), RunConfig)
    known = make_config(plain(stored | {"trainable": "train"}), RunConfig)  # anything that is no table
    return known.model_copy(update={"trainable": trainable})
