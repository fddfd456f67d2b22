"""`python -m raynas.compare`: runs searchers side by side on a simulated cluster, many seeds each, and prints who wins.

It writes `curves.parquet` (the incumbent after every trial of every run), `summary.csv` and `curves.png` into the folder --out. What is
finished there is not run again, so an interrupted comparison goes on with the same command, and more seeds or searchers can be added.
"""

from raynas import signals

if __name__ == "__main__":
    signals.install()  # before what takes its time to load

import csv
import io
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as PrintedTable

from raynas import storage
from raynas.cli import DONE, INTERRUPTED, Parser, add_flags, program, run_command
from raynas.config import assign, make_config, provenance
from raynas.errors import ConfigError, ResultsError
from raynas.outcome import TEST_ACCURACY, VALID_ACCURACY
from raynas.plotting import comparison
from raynas.registry import resolve
from raynas.run.schedulers import make_scheduler
from raynas.run.settings import SCHEDULERS
from raynas.simulate import Simulation
from raynas.spaces import SearchSpace, make_space
from raynas.storage import read_yaml
from raynas.tables import Table, open_table, searchable
from searchers import Engine, OneShot, make_engine

CURVES = pa.schema(
    [
        pa.field("searcher", pa.string()),
        pa.field("scheduler", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("queries", pa.int64()),
        pa.field("simulated_seconds", pa.float64()),
        pa.field("valid_accuracy", pa.float64()),  # of the incumbent: the best observed so far
        pa.field("test_accuracy", pa.float64()),
        pa.field("recommended_valid_accuracy", pa.float64()),  # of the cell the model trusts most, every 50 trials and at the end
        pa.field("recommended_test_accuracy", pa.float64()),
    ]
)
_RECOMMEND_EVERY = 50
_SHOWN = (10, 20, 30, 50, 80, 100, 150, 200, 300, 500, 1000)  # queries in the printed table


class CompareConfig(BaseModel):
    """Everything that defines a comparison."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    space: str = Field("nasbench201", description="search space, by name or as module:Class")
    space_options: dict[str, Any] = Field(default_factory=dict, description="settings of the space")
    table: str | None = Field(None, description="benchmark table (Parquet); without it the installed one of the space")
    dataset: str = Field("cifar10", description="data set of the installed table")
    repeat: int | Literal["mean"] = Field("mean", description="which repeat of the table the searchers observe, or the mean")
    searchers: str = Field("bananas,evolution,random", description="search methods, separated by commas")
    searcher_options: dict[str, dict[str, Any]] = Field(default_factory=dict, description="settings for each search method")
    schedulers: str = Field("fifo", description="Tune schedulers, separated by commas")
    seeds: int = Field(10, gt=0, description="runs of each searcher with each scheduler")
    first_seed: int = Field(0, ge=0, description="seed of the first run")
    trials: int = Field(150, gt=0, description="architectures that each run evaluates")
    max_epochs: int | None = Field(None, gt=0, description="largest budget; without it the table's")
    workers: int = Field(1, gt=0, description="simulated workers; 1 with the default searcher is the sequential setting of the papers")
    failure_rate: float = Field(0.0, ge=0, le=1, description="share of the trials that fail")
    straggler_rate: float = Field(0.0, ge=0, le=1, description="share of the trials that take five times longer")
    processes: int | None = Field(None, gt=0, description="processes; without it one for each core")
    out: str = Field("comparison", description="folder for the results")


_EXTENDABLE = {"searchers", "schedulers", "seeds", "first_seed", "processes", "out"}


def parser() -> Parser:
    """The command line."""
    made = Parser(prog=program("compare"), description=__doc__, allow_abbrev=False)
    made.add_argument("--config", metavar="FILE", help="configuration as YAML; flags and --set override it")
    made.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any setting, e.g. searcher_options.bananas.pool=500")
    add_flags(made, CompareConfig)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m raynas.compare --help`."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    flags = vars(parser().parse_args(argv))
    path, assignments = flags.pop("config"), flags.pop("set")
    given = read_yaml(path) if path else {}
    assign(given, assignments)
    config = make_config(given | flags, CompareConfig)
    table = _checked(config)
    _claim(config)
    try:
        curves = _run_all(config)
    except KeyboardInterrupt:
        print(f"Interrupted. What is finished is in {config.out}; the same command goes on.")
        return INTERRUPTED
    rows = summarize(curves)
    optimum = table.best((TEST_ACCURACY if _has_test(curves) else VALID_ACCURACY).name)[1]
    picture = _plot(curves, config, table, optimum)
    for name, content in (("curves.parquet", _parquet(curves)), ("summary.csv", _csv(rows)), ("curves.png", picture)):
        _write(config, name, content)
    _print(rows, optimum, config)
    return DONE


def _checked(config: CompareConfig) -> Table:
    """Finds every mistake before the first run starts."""
    table = open_table(config.table, config.space, config.dataset)
    if config.max_epochs is not None and config.max_epochs < table.budgets[0]:
        raise ConfigError(f"max_epochs = {config.max_epochs} is below the table's smallest budget, {table.budgets[0]}")
    searchers, schedulers = _names(config.searchers), _names(config.schedulers)
    for kind, names in (("searchers", searchers), ("schedulers", schedulers)):
        if not names:
            raise ConfigError(f"--{kind} names none; give one or more, separated by commas")
    for name in searchers:
        if isinstance(_engine(name, config, table, seed=0).method, OneShot):
            raise ConfigError(
                f"{name} trains networks, which a simulation cannot do; run it by `python -m raynas.search --searcher {name}`"
            )
    for name in config.searcher_options:
        if name not in searchers:
            raise ConfigError(f"searcher_options.{name}: {name} does not take part; --searchers is {config.searchers}")
    for name in schedulers:
        resolve(SCHEDULERS, name, "scheduler")
    return table


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _claim(config: CompareConfig) -> None:
    """Marks the folder as this comparison's.

    Raises:
        ConfigError: it holds another comparison.
    """
    mine = {key: value for key, value in config.model_dump().items() if key not in _EXTENDABLE}
    if storage.exists(config.out, "config.json"):
        theirs = storage.read_config(config.out)
        for key, value in mine.items():
            if theirs.get(key) != value:
                raise ConfigError(f"{config.out} holds a comparison with {key} = {theirs.get(key)!r}, not {value!r}; choose another --out")
    storage.write_json(config.out, "config.json", {"config": mine} | provenance())
    fs, root = storage.filesystem(config.out)
    storage.make_folder(fs, f"{root}/parts")


# -- running -------------------------------------------------------------------------------------------------------------


def _write(config: CompareConfig, name: str, content: Any) -> None:
    fs, root = storage.filesystem(config.out)
    storage.write_bytes(fs, f"{root}/{name}", content)


def _part(searcher: str, scheduler: str, seed: int) -> str:
    return f"parts/{searcher.replace(':', '.')}-{scheduler}-{seed}.parquet"


def _read_part(config: CompareConfig, name: str) -> pa.Table:
    fs, root = storage.filesystem(config.out)
    try:
        return pq.read_table(pa.BufferReader(storage.read_bytes(fs, f"{root}/{name}")), schema=CURVES)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        path = storage.join(config.out, name)
        raise ResultsError(f"{path} is damaged ({storage.first_line(error)}); delete it, and the same command makes it anew") from error


def _parquet(table: pa.Table) -> Any:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue()


def _run_all(config: CompareConfig) -> pa.Table:
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    runs = [(s, t, seed) for seed in seeds for s in _names(config.searchers) for t in _names(config.schedulers)]
    missing = [run for run in runs if not storage.exists(config.out, _part(*run))]
    columns = TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process has one core
    context = multiprocessing.get_context("spawn")  # forking a process with threads of Arrow and torch is not safe
    with (
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ProcessPoolExecutor(min(config.processes or os.cpu_count() or 1, max(len(missing), 1)), context) as pool,
    ):
        task = progress.add_task("runs", total=len(runs), completed=len(runs) - len(missing))
        try:
            with signals.shielding():
                futures = [pool.submit(_run, config, *run) for run in missing]
            for future in as_completed(futures):
                future.result()
                progress.advance(task)
        except BaseException:
            with signals.held():
                for process in multiprocessing.active_children():  # what is finished is on disk, and nobody waits for the rest
                    process.kill()
                pool.shutdown(cancel_futures=True)
            raise
    return pa.concat_tables([_read_part(config, _part(*run)) for run in runs])


_table = lru_cache(maxsize=2)(open_table)
_made: dict[str, SearchSpace] = {}  # one process makes many runs of one comparison


def _space(config: CompareConfig, table: Table) -> SearchSpace:
    """What the table can answer."""
    key = config.model_dump_json(include={"space", "space_options", "table", "dataset", "repeat", "max_epochs"})
    if key not in _made:
        _made[key] = searchable(table, make_space(config.space, config.space_options), _budgets(config, table), config.repeat)
    return _made[key]


def _budgets(config: CompareConfig, table: Table) -> tuple[int, ...]:
    return tuple(b for b in table.budgets if config.max_epochs is None or b <= config.max_epochs)


def _engine(name: str, config: CompareConfig, table: Table, seed: int) -> Engine:
    budgets, options = _budgets(config, table), config.searcher_options.get(name, {})
    return make_engine(name, _space(config, table), options, seed=seed, max_budget=budgets[-1])


def _run(config: CompareConfig, searcher_name: str, scheduler_name: str, seed: int) -> None:
    """One run, in a process of its own; a function of the configuration and the seed."""
    table = _table(config.table, config.space, config.dataset)
    longest = _budgets(config, table)[-1]
    np.random.seed(seed)  # ASHA draws its brackets from numpy's global generator
    simulation = Simulation(
        _engine(searcher_name, config, table, seed),
        table,
        config.trials,
        config.workers,
        make_scheduler(scheduler_name, VALID_ACCURACY.name, "max", longest),
        repeat=config.repeat,
        max_epochs=config.max_epochs,
        failure_rate=config.failure_rate,
        straggler_rate=config.straggler_rate,
        seed=seed,
    )
    rows = []

    def note(now: Simulation) -> None:
        best, queries = now.best, len(now.results)
        row: dict[str, Any] = {"queries": queries, "simulated_seconds": now.now}
        if best is not None:
            row |= {"valid_accuracy": best.valid_accuracy, "test_accuracy": best.test_accuracy}
        if queries % _RECOMMEND_EVERY == 0 or queries == config.trials:
            chosen = now.engine.recommend()
            if chosen is not None:
                record = table.query(chosen.id, longest, config.repeat)
                row |= {"recommended_valid_accuracy": record.valid_accuracy, "recommended_test_accuracy": record.test_accuracy}
        rows.append(row)

    simulation.run(note)
    if simulation.engine.problem is not None:  # what was simulated is random search
        raise ConfigError(f"{searcher_name} never proposed anything: {simulation.engine.problem}")
    named = [{"searcher": searcher_name, "scheduler": scheduler_name, "seed": seed} | row for row in rows]
    _write(config, _part(searcher_name, scheduler_name, seed), _parquet(pa.Table.from_pylist(named, schema=CURVES)))


# -- what comes out --------------------------------------------------------------------------------------------------------


def _has_test(curves: pa.Table) -> bool:
    return bool(curves["test_accuracy"].null_count < len(curves))


def _errors(curves: pa.Table, column: str) -> dict[tuple[str, str], NDArray[np.float64]]:
    """(seeds, queries) error in percent of each (searcher, scheduler); NaN where unknown."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    columns = (curves[name].to_pylist() for name in ("searcher", "scheduler", "seed", column))
    for searcher, scheduler, seed, accuracy in zip(*columns, strict=True):
        error = np.nan if accuracy is None else 100 * (1 - accuracy)
        found.setdefault((searcher, scheduler), {}).setdefault(seed, []).append(error)
    return {key: _stacked(list(runs.values())) for key, runs in found.items()}


def _stacked(runs: list[list[float]]) -> NDArray[np.float64]:
    """(seeds, longest): a run that ended early, in a small space, keeps its last value."""
    longest = max(map(len, runs))
    return np.array([run + [run[-1]] * (longest - len(run)) for run in runs])


def summarize(curves: pa.Table) -> list[dict[str, Any]]:
    """Mean and standard error over the seeds, at round numbers of queries; errors in percent."""
    rows = []
    columns = {
        "valid_error": _errors(curves, "valid_accuracy"),
        "test_error": _errors(curves, "test_accuracy"),
        "recommended_test_error": _errors(curves, "recommended_test_accuracy"),
    }
    for key, runs in columns["valid_error"].items():
        last = runs.shape[1]
        for queries in sorted({q for q in _SHOWN if q < last} | {last}):
            row: dict[str, Any] = {"searcher": key[0], "scheduler": key[1], "queries": queries, "seeds": len(runs)}
            for name, errors in columns.items():
                values = errors[key][:, queries - 1]
                values = values[np.isfinite(values)]
                row[f"{name}_mean"] = float(values.mean()) if len(values) else None
                row[f"{name}_se"] = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
            rows.append(row)
    return rows


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _print(rows: list[dict[str, Any]], optimum: float, config: CompareConfig) -> None:
    kind = "test" if rows[0]["test_error_mean"] is not None else "valid"
    queries = sorted({row["queries"] for row in rows})
    found: list[tuple[str, str, list[str]]] = []
    for searcher, scheduler in dict.fromkeys((row["searcher"], row["scheduler"]) for row in rows):
        mine = {row["queries"]: row for row in rows if (row["searcher"], row["scheduler"]) == (searcher, scheduler)}
        found.append((searcher, scheduler, [_cell(mine[q], f"{kind}_error") if q in mine else "" for q in queries]))
        recommended = [(row["recommended_test_error_mean"], row["test_error_mean"]) for row in mine.values()]
        if any(mean is not None and mean != observed for mean, observed in recommended):
            cells = [_cell(mine[q], "recommended_test_error") if q in mine else "" for q in queries]
            found.append(("  as recommended", scheduler, cells))
    wide = 30 + 16 * len(queries)
    console = Console() if sys.stdout.isatty() else Console(width=wide)
    title = f"mean {'test' if kind == 'test' else 'validation'} error (standard error), %, of the best architecture observed"
    columns = [str(q) for q in queries] if console.width >= wide else ["evaluations", "error"]
    shown = PrintedTable("searcher", "scheduler", *columns, title=title, title_justify="left")
    for searcher, scheduler, cells in found:
        if console.width >= wide:
            shown.add_row(searcher, scheduler, *cells)
        for query, cell in zip(queries, cells, strict=True) if console.width < wide else ():
            shown.add_row(*((searcher, scheduler) if query == queries[0] else ("", "")), str(query), cell)
    console.print(shown)
    console.print(f"{config.seeds} seeds from {config.first_seed}; the best of the table: {100 * (1 - optimum):.3f} %", highlight=False)
    console.print(f"Results: {config.out} (curves.parquet, summary.csv, curves.png)", highlight=False, soft_wrap=True)


def _cell(row: dict[str, Any], name: str) -> str:
    mean, deviation = row[f"{name}_mean"], row[f"{name}_se"]
    return "" if mean is None else f"{mean:.3f}" + (f" ({deviation:.3f})" if deviation is not None else "")


def _plot(curves: pa.Table, config: CompareConfig, table: Table, optimum: float) -> bytes:
    """A picture (PNG) of the comparison."""
    column = "test_accuracy" if _has_test(curves) else "valid_accuracy"
    timed = table.query(table.ids[0]).train_seconds is not None
    hours = {key: (1 - at / 100) / 3600 for key, at in _errors(curves, "simulated_seconds").items()} if timed else None  # no percent
    title = f"{config.space}, {config.dataset}: seeds {config.first_seed} to {config.first_seed + config.seeds - 1}"
    kind = "test" if _has_test(curves) else "validation"
    picture = io.BytesIO()
    drawn = comparison(_errors(curves, column), hours, title=title, kind=kind, optimum=100 * (1 - optimum))
    drawn.savefig(picture, dpi=120, format="png")
    return picture.getvalue()


if __name__ == "__main__":
    sys.exit(main())
