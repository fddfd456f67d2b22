"""What is known before a run begins: results of its own earlier sessions, and of other runs of the same space and data set."""

from collections.abc import Iterator
from typing import Any

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
        if told.status != "failed" or error is not None:
            yield told


def dataset_of(config: RunConfig) -> str:
    """The data set of a run: a table that is looked up in says itself of which it is.

    Raises:
        TableError: the table is missing or damaged.
    """
    return Table.open(config.table).dataset if config.trainable == "lookup" and config.table is not None else config.dataset


def warm_tables(config: RunConfig, uri: str) -> list[Tables]:
    """The tables of the runs that `config.warm_start` names.

    Raises:
        ResultsError: one of them is missing or damaged.
        ConfigError: it is this run itself, or of another space or data set.
    """
    return [_other(config, uri, other) for other in config.warm_start]


def _other(config: RunConfig, uri: str, other: str) -> Tables:
    if storage.filesystem(other) == storage.filesystem(uri):
        raise ConfigError(f"--warm-start {other} is this run's own folder; name another run, or go on with this one by --resume")
    try:
        theirs = make_config(_settings(other), RunConfig)
        tables = read_earlier(other)
        pairs: dict[str, tuple[Any, Any]] = {
            "space": (theirs.space, config.space),
            "options of the space": (theirs.space_options, config.space_options),
            "data set": (config.dataset,) * 2 if theirs.table == config.table is not None else (dataset_of(theirs), dataset_of(config)),
        }
    except (ResultsError, TableError) as error:
        raise ResultsError(f"--warm-start {other}: {error}") from error
    for what, (there, here) in pairs.items():
        if there != here:
            raise ConfigError(f"--warm-start {other}: that run is of another {what}, {there} and not {here}; its results say nothing here")
    return tables


def _settings(uri: str) -> dict[str, Any]:
    """Those of another run, whose own code says nothing here and is not loaded, but for what `plain` must look at in runs of one's own."""
    stored = storage.read_config(uri)
    if ":" in str(stored.get("trainable", "")) and not is_own(uri):
        stored["trainable"] = "train"  # anything that is no table
    return plain(stored)
