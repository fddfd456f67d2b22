"""The runs of comparisons: each a simulated search in a process of the pool, which leaves one Parquet file in `parts/` of its folder."""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from raynas import signals, storage
from raynas.comparing.config import EXTENDABLE, CompareConfig, names
from raynas.config import make_config, provenance
from raynas.errors import ConfigError, ResultsError
from raynas.outcome import VALID_ACCURACY
from raynas.registry import resolve
from raynas.run.schedulers import make_scheduler
from raynas.run.settings import SCHEDULERS
from raynas.simulate import Simulation
from raynas.spaces import SearchSpace, Subset, make_space
from raynas.tables import Table, open_table, searchable
from searchers import SEARCHERS, Engine, OneShot, make_engine

CURVES = pa.schema(
    [
        pa.field("searcher", pa.string()),
        pa.field("scheduler", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("queries", pa.int64()),
        pa.field("simulated_seconds", pa.float64()),  # null after the end of a run that stopped at the best architecture
        pa.field("valid_accuracy", pa.float64()),  # of the incumbent: the best observed so far
        pa.field("test_accuracy", pa.float64()),
        pa.field("recommended_valid_accuracy", pa.float64()),  # of the cell the model trusts most, every 50 trials and at the end
        pa.field("recommended_test_accuracy", pa.float64()),
    ]
)
_RECOMMEND_EVERY = 50


class Run(NamedTuple):
    """One simulated search."""

    config: CompareConfig
    searcher: str
    scheduler: str
    seed: int

    @property
    def part(self) -> str:
        """Its file in the folder of the comparison."""
        return f"parts/{self.searcher.replace(':', '.')}-{self.scheduler}-{self.seed}.parquet"


@dataclass(frozen=True)
class Benchmark:
    """What all runs of a comparison have in common."""

    table: Table
    space: SearchSpace  # what the table can answer
    budgets: tuple[int, ...]  # epochs
    repeat: int | Literal["mean"]

    @classmethod
    def of(cls, config: CompareConfig) -> "Benchmark":
        """Raises a RaynasError where there is no such table, or it does not go with the rest."""
        table = open_table(config.table, config.space, config.dataset)
        if config.max_epochs is not None and config.max_epochs < table.budgets[0]:
            raise ConfigError(f"max_epochs = {config.max_epochs} is below the table's smallest budget, {table.budgets[0]}")
        budgets = tuple(b for b in table.budgets if config.max_epochs is None or b <= config.max_epochs)
        space = searchable(table, make_space(config.space, config.space_options), budgets, config.repeat)
        return cls(table, space, budgets, config.repeat)

    def optimum(self, metric: str = VALID_ACCURACY.name) -> float:
        """The highest accuracy among all that a search may propose."""
        rows: Any = np.flatnonzero(self.table.known(self.budgets, self.repeat))
        if isinstance(self.space, Subset):
            rows = [self.table.row(arch.id) for arch in self.space.enumerate()]
        return float(np.nanmax(self.table.values(metric, self.budgets[-1], self.repeat)[rows]))

    @property
    def timed(self) -> bool:
        """Whether the table knows how long trainings take."""
        return any(name.startswith("train_seconds") for name in self.table.names)

    def engine(self, name: str, options: Mapping[str, Any], seed: int) -> Engine:
        """The ask/tell loop of a method."""
        return make_engine(name, self.space, options, seed=seed, max_budget=self.budgets[-1])


def check(config: CompareConfig) -> Benchmark:
    """Finds every mistake before the first run starts."""
    benchmark = Benchmark.of(config)
    searchers, schedulers = names(config.searchers), names(config.schedulers)
    for kind, found in (("searchers", searchers), ("schedulers", schedulers)):
        if not found:
            raise ConfigError(f"--{kind} names none; give one or more, separated by commas")
    for name in searchers:
        if isinstance(benchmark.engine(name, config.searcher_options.get(name, {}), seed=0).method, OneShot):
            raise ConfigError(
                f"{name} trains networks, which a simulation cannot do; run it by `python -m raynas.search --searcher {name}`"
            )
    for name in config.searcher_options:
        if name not in searchers:
            raise ConfigError(f"searcher_options.{name}: {name} does not take part; --searchers is {config.searchers}")
    for name in config.searcher_seeds:
        resolve(SEARCHERS, name, "searcher")  # that it does not take part says no more than that it has no runs
    for name in schedulers:
        resolve(SCHEDULERS, name, "scheduler")
    return benchmark


def claim(config: CompareConfig) -> None:
    """Marks the folder as this comparison's.

    Raises:
        ConfigError: it holds another comparison.
    """
    mine = {key: value for key, value in config.model_dump().items() if key not in EXTENDABLE}
    if storage.exists(config.out, "config.json"):
        defaults = make_config({}, CompareConfig).model_dump()  # of settings that did not exist yet when it began
        theirs = defaults | storage.read_config(config.out)
        for key, value in mine.items():
            if theirs[key] != value:
                raise ConfigError(f"{config.out} holds a comparison with {key} = {theirs[key]!r}, not {value!r}; choose another --out")
    storage.write_json(config.out, "config.json", {"config": mine} | provenance())
    fs, root = storage.filesystem(config.out)
    storage.make_folder(fs, f"{root}/parts")


def runs(configs: Sequence[CompareConfig]) -> list[Run]:
    """All runs, the first seeds of every searcher and comparison first: what is interrupted then knows a little of everything."""
    pairs = [(c, s, t) for c in configs for s in names(c.searchers) for t in names(c.schedulers)]
    most = max(config.runs_of(searcher) for config, searcher, _ in pairs)
    return [Run(c, s, t, c.first_seed + i) for i in range(most) for c, s, t in pairs if i < c.runs_of(s)]


def run_all(planned: Sequence[Run], processes: int | None) -> None:
    """Makes the parts that do not exist yet, several at once."""
    missing = [run for run in planned if not storage.exists(run.config.out, run.part)]
    columns = TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process has one core
    context = multiprocessing.get_context("spawn")  # forking a process with threads of Arrow and torch is not safe
    with (
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ProcessPoolExecutor(min(processes or os.cpu_count() or 1, max(len(missing), 1)), context) as pool,
    ):
        task = progress.add_task("runs", total=len(planned), completed=len(planned) - len(missing))
        try:
            with signals.shielding():
                futures = [pool.submit(make, run) for run in missing]
            for future in as_completed(futures):
                future.result()
                progress.advance(task)
        except BaseException:
            with signals.held():
                for process in multiprocessing.active_children():  # what is finished is on disk, and nobody waits for the rest
                    process.kill()
                pool.shutdown(cancel_futures=True)
            raise


_benchmarks: dict[str, tuple[Benchmark, float]] = {}  # with its optimum; one process makes many runs of the same comparisons


def make(run: Run) -> None:
    """One run, in a process of its own; a function of the configuration and the seed."""
    config = run.config
    key = config.model_dump_json(include={"space", "space_options", "table", "dataset", "repeat", "max_epochs"})
    if key not in _benchmarks:
        benchmark = Benchmark.of(config)
        _benchmarks[key] = benchmark, benchmark.optimum()
    benchmark, optimum = _benchmarks[key]
    np.random.seed(run.seed)  # ASHA draws its brackets from numpy's global generator
    simulation = Simulation(
        benchmark.engine(run.searcher, config.searcher_options.get(run.searcher, {}), run.seed),
        benchmark.table,
        config.trials,
        config.workers,
        make_scheduler(run.scheduler, VALID_ACCURACY.name, "max", benchmark.budgets[-1]),
        repeat=config.repeat,
        max_epochs=config.max_epochs,
        failure_rate=config.failure_rate,
        straggler_rate=config.straggler_rate,
        seed=run.seed,
    )
    rows = _simulated(simulation, benchmark, config.trials, optimum if config.stop_at_best else np.inf)
    if simulation.engine.problem is not None:  # what was simulated is random search
        raise ConfigError(f"{run.searcher} never proposed anything: {simulation.engine.problem}")
    named = [{"searcher": run.searcher, "scheduler": run.scheduler, "seed": run.seed} | row for row in rows]
    write(config.out, run.part, parquet(pa.Table.from_pylist(named, schema=CURVES)))


def _simulated(simulation: Simulation, benchmark: Benchmark, trials: int, enough: float) -> list[dict[str, Any]]:
    """The incumbent after every trial; it stays what it is from where its accuracy is `enough`."""
    rows: list[dict[str, Any]] = []

    def note(now: Simulation) -> bool:
        best, queries = now.best, len(now.results)
        row: dict[str, Any] = {"queries": queries, "simulated_seconds": now.now}
        if best is not None:
            row |= {"valid_accuracy": best.valid_accuracy, "test_accuracy": best.test_accuracy}
        if _recommends(queries, trials):
            row |= _recommended(now.engine, benchmark)
        rows.append(row)
        return best is not None and (best.valid_accuracy or 0.0) >= enough

    if len(simulation.run(note)) < trials and rows and (rows[-1].get("valid_accuracy") or 0.0) >= enough:
        known, recommended = rows[-1] | {"simulated_seconds": None}, _recommended(simulation.engine, benchmark)
        for queries in range(len(rows) + 1, trials + 1):
            rows.append(known | {"queries": queries} | (recommended if _recommends(queries, trials) else dict.fromkeys(recommended)))
    return rows


def _recommends(queries: int, trials: int) -> bool:
    return queries % _RECOMMEND_EVERY == 0 or queries == trials


def _recommended(engine: Engine, benchmark: Benchmark) -> dict[str, Any]:
    chosen = engine.recommend()
    if chosen is None:
        return {}
    record = benchmark.table.query(chosen.id, benchmark.budgets[-1], benchmark.repeat)
    return {"recommended_valid_accuracy": record.valid_accuracy, "recommended_test_accuracy": record.test_accuracy}


# -- files ---------------------------------------------------------------------------------------------------------------


def read_parts(planned: Sequence[Run]) -> pa.Table:
    """The curves of runs that are finished.

    Raises:
        ResultsError: a part is damaged.
    """
    return pa.concat_tables([_read_part(run.config.out, run.part) for run in planned])


def _read_part(out: str, name: str) -> pa.Table:
    fs, root = storage.filesystem(out)
    try:
        return pq.read_table(pa.BufferReader(storage.read_bytes(fs, f"{root}/{name}")), schema=CURVES)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        path = storage.join(out, name)
        raise ResultsError(f"{path} is damaged ({storage.first_line(error)}); delete it, and the same command makes it anew") from error


def parquet(table: pa.Table) -> Any:
    """The content of a file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue()


def write(out: str, name: str, content: Any) -> None:
    """Writes a file of the folder of a comparison."""
    fs, root = storage.filesystem(out)
    storage.write_bytes(fs, f"{root}/{name}", content)
