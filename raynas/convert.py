"""`python -m raynas.convert SRC DST`: makes a table, which searches look results up in.

SRC is a published file of NAS-Bench-101 (.tfrecord), or a Parquet or CSV file of one's own with a row for each architecture: with the
columns `adjacency` (V * V characters 0 or 1) and `operations` (joined by commas) for nasbench101, `arch` for nasbench201, or `genotype`
(JSON, {"normal": [[operation, input], ...], "reduce": ...}) for darts, and accuracies in the columns that --valid and --test name. For a
space of one's own (--space module:Class) it has the columns that the class says; by default `arch`, the JSON of an architecture.
Results after several budgets have a row for each architecture and epoch, which the column that --epoch names holds.
`python -m raynas.convert --download nasbench101 DST` fetches the published file first.
"""

import hashlib
import itertools
import multiprocessing
import os
import posixpath
import signal
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from raynas.cli import DONE, Parser, program, run_command
from raynas.config import assign
from raynas.errors import ConfigError, OutOfSpaceError, TableError
from raynas.registry import unknown
from raynas.spaces import SPACES, SearchSpace, known_spaces, permissive
from raynas.storage import filesystem, first_line
from raynas.tables.download import DOWNLOADS, fetch
from raynas.tables.table import Key, Table
from raynas.tables.tfrecord import PUBLISHED, read_table

Report = Callable[[int, int | None], None]  # how much is done, of how much where that is known
Texts = tuple[str, ...]

_CHUNK = 5000  # rows that one process reads at once
_LINE_SECONDS = 10.0  # between two lines where the output is no terminal


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog=program("convert"),
        usage="%(prog)s SRC DST [options]\n       %(prog)s --download NAME DST [options]",
        description=(__doc__ or "").partition("\n\n")[2],
        allow_abbrev=False,
    )
    made.add_argument("paths", nargs="*", metavar="SRC DST", help="the file to convert (.tfrecord, .parquet, .csv) and the table to write")
    made.add_argument(
        "--space", metavar="NAME", help=f"one of {', '.join(SPACES)}, or module:Class (default: what the columns of SRC tell)"
    )
    made.add_argument("--dataset", metavar="NAME", default="cifar10", help="what the networks were trained on (default: cifar10)")
    own = made.add_argument_group("where SRC is a file of one's own")
    own.add_argument("--valid", metavar="COLUMN", help="accuracy that searches see, a fraction")
    own.add_argument("--test", metavar="COLUMN", help="accuracy that is reported, a fraction")
    own.add_argument("--seconds", metavar="COLUMN", help="time of the training")
    usual = ", ".join(f"{space.table_epochs} {name}" for name, space in known_spaces().items() if space.table_epochs)
    own.add_argument("--epochs", metavar="N", type=int, help=f"of the training (default: {usual})")
    own.add_argument(
        "--epoch", metavar="COLUMN", help="epochs after which a row's numbers were measured, where architectures have several rows"
    )
    own.add_argument("--set", metavar="space_options.KEY=VALUE", action="append", default=[], help="a setting of the space")
    own.add_argument("--percent", action="store_true", help="the accuracies are in percent; divides them by 100")
    download = made.add_argument_group("to fetch a published file")
    download.add_argument("--download", metavar="NAME", help=f"one of {', '.join(DOWNLOADS)}")
    download.add_argument("--url", metavar="URL", help="of a mirror of that file")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m raynas.convert --help`."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = parser().parse_args(argv)
    own = args.download is None and bool(args.paths) and Path(args.paths[0]).suffix != ".tfrecord"
    _check_arguments(args, own)
    destination = args.paths[-1]
    if args.download:
        with reporting(f"fetching {args.download}") as report:
            part = fetch(args.download, Path(destination).expanduser().absolute().parent, args.url, report)
        table = _published(str(part), args.dataset)
        table.write(destination)
        part.unlink()
    else:
        table = _own(args.paths[0], args) if own else _published(args.paths[0], args.dataset)
        table.write(destination)
    budgets = ", ".join(map(str, table.budgets))
    print(f"{destination}: {len(table):,} architectures of {table.space} on {table.dataset}, epochs {budgets}, repeats {table.repeats}")
    return DONE


def _check_arguments(args: Any, own: bool) -> None:
    """Raises ConfigError for arguments that do not go together, before anything is read."""
    if len(args.paths) != (1 if args.download else 2):
        wanted = "one path with --download, that of the table to write" if args.download else "two paths, SRC and DST"
        raise ConfigError(f"the command takes {wanted}; got {len(args.paths)}: {' '.join(args.paths) or 'none'}")
    if args.url and not args.download:
        raise ConfigError("--url names a mirror for --download, which is missing")
    if own and args.valid is None:
        raise ConfigError(f"--valid COLUMN is missing: which column of {args.paths[0]} holds the accuracy that searches see?")
    if not own:
        given = [f"--{name}" for name in ("valid", "test", "seconds", "epochs", "epoch", "percent", "set") if getattr(args, name)]
        if given or args.space not in (None, "nasbench101"):
            raise ConfigError(f"{given[0] if given else '--space ' + args.space} does not go with a published file of nasbench101")
    if args.epoch and args.epochs is not None:
        raise ConfigError("--epoch COLUMN tells the epochs of each row, and --epochs N those of all; leave out one of them")
    destination = Path(args.paths[-1])
    if destination.is_dir():
        raise ConfigError(f"{destination} is a folder; name the file to write, such as {destination / 'table.parquet'}")
    if len(args.paths) == 2 and destination.exists() and destination.samefile(args.paths[0]):
        raise ConfigError(f"{destination} is the file to convert; name another one to write")


@contextmanager
def reporting(what: str) -> Iterator[Report]:
    """Shows how far something is: a bar on a terminal, elsewhere a line now and then."""
    console = Console()
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    shown = time.monotonic()

    def report(done: int, total: int | None) -> None:
        nonlocal shown
        if time.monotonic() - shown >= _LINE_SECONDS:
            shown = time.monotonic()
            print(f"{what}: {done / total:.0%}" if total else f"{what}: {done:,} bytes", flush=True)

    yield report


def _published(path: str, dataset: str) -> Table:
    """The table in a published file of NAS-Bench-101."""
    with reporting(f"reading {Path(path).name}") as report:
        table = read_table(path, dataset, report)
    sha256 = table.metadata["sha256"]
    found = f"this is the published {PUBLISHED[sha256]}" if sha256 in PUBLISHED else "not one of the published files"
    print(f"SHA256 {sha256}: {found}")
    return table


def _own(path: str, args: Any) -> Table:
    """The table in a user's Parquet or CSV file."""
    options = _space_options(args.set)
    given = None if args.space is None else permissive(args.space, options)
    content = _content(path)
    used = {"valid_accuracy": args.valid, "test_accuracy": args.test, "train_seconds": args.seconds}
    used = {metric: name for metric, name in used.items() if name is not None}
    space, data = _data(path, content, given, options, [*used.values(), *([args.epoch] if args.epoch else [])])
    epochs = _epochs(path, data, space, args)
    values = {metric: _numbers(path, data, name, metric, args.percent) for metric, name in used.items()}
    ids, at, extra = _architectures(path, space, data, epochs)
    budgets = np.unique(epochs).tolist()
    columns: dict[Key, NDArray[np.floating[Any]]] = {}
    for budget, (metric, measured) in itertools.product(budgets, values.items()):
        column = columns[metric, budget, 0] = np.full(len(ids), np.nan)
        column[at[epochs == budget]] = measured[epochs == budget]
    about = {
        "source": posixpath.basename(path),
        "licence": "not stated",
        "sha256": hashlib.sha256(content).hexdigest(),
        "description": ", ".join(f"{metric} is the column {name}" for metric, name in used.items()),
    }
    return Table.from_columns(space.name, args.dataset, ids, columns, budgets, about, extra)


def _epochs(path: str, data: pa.Table, space: SearchSpace, args: Any) -> NDArray[np.int64]:
    """(n,) after how many epochs the numbers of each row were measured."""
    if args.epoch is None:
        epochs = space.table_epochs if args.epochs is None else args.epochs
        if epochs is None:
            raise ConfigError(f"--epochs N is missing: how long were the architectures of {space.name} trained?")
        return np.full(len(data), epochs)
    try:
        given = data[args.epoch].cast(pa.int64())
    except pa.ArrowException as error:
        raise TableError(f"the column {args.epoch} of {path} must hold whole numbers: {first_line(error)}") from error
    for row, epoch in enumerate(given.to_pylist(), start=1):
        if epoch is None or epoch < 1:
            raise TableError(f"row {row} of {path}: {args.epoch} is {'empty' if epoch is None else epoch}; epochs are at least 1")
    return np.array(given.to_numpy())


def _space_options(assignments: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {"space_options": {}}
    assign(settings, assignments)
    for name in settings:
        if name != "space_options" or not isinstance(settings[name], dict):
            raise ConfigError(f"--set takes space_options.KEY=VALUE here, as in space_options.depth=5; not {assignments[0]!r}")
    options: dict[str, Any] = settings["space_options"]
    return options


def _content(path: str) -> pa.Buffer:
    if not path.endswith((".parquet", ".csv")):
        raise TableError(f"{path} must end in .tfrecord, .parquet or .csv, which tells what it is")
    try:
        system, inner = filesystem(path)
        with system.open_input_file(inner) as file:
            return file.read_buffer()
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path} cannot be read: {first_line(error)}") from error


def _data(
    path: str, content: pa.Buffer, given: SearchSpace | None, options: dict[str, Any], used: list[str]
) -> tuple[SearchSpace, pa.Table]:
    """The space, and the columns that describe the architectures, as texts, with those in `used`."""
    try:
        if path.endswith(".csv"):
            # As numbers, adjacencies would lose their leading zeros.
            spaces = known_spaces().values() if given is None else [given]
            texts = {name: pa.string() for space in spaces for name in space.columns}
            data = pacsv.read_csv(pa.BufferReader(content), convert_options=pacsv.ConvertOptions(column_types=texts))
            names = data.column_names
        else:
            file = pq.ParquetFile(pa.BufferReader(content))
            names = file.schema_arrow.names
        space = _space(path, names, given, options, used)
        wanted = list(dict.fromkeys([*space.columns, *used]))
        data = data.select(wanted) if path.endswith(".csv") else file.read(columns=wanted)
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path} cannot be read, it may be damaged or another kind of file: {first_line(error)}") from error
    if len(data) == 0:
        raise TableError(f"{path} has no rows")
    for i, name in enumerate(space.columns):
        if pa.types.is_dictionary(data[name].type):
            data = data.set_column(i, name, data[name].cast(pa.string()))
        if not (pa.types.is_string(data[name].type) or pa.types.is_large_string(data[name].type)):
            raise TableError(f"the column {name} of {path} must hold text, not {data[name].type}")
    return space, data


def _space(path: str, names: Sequence[str], given: SearchSpace | None, options: dict[str, Any], used: Sequence[str]) -> SearchSpace:
    """The space whose architectures the columns `names` of a file describe. Raises where one of those `used` or needed is not there."""
    for name in used:
        if name not in names:
            raise unknown(f"column of {path}", name, names)
    shown = f"its columns are {', '.join(names)}"
    if len(set(names)) < len(names):
        raise TableError(f"{path} has two columns of the same name; {shown}")
    if given is not None:
        for name in given.columns:
            if name not in names:
                raise TableError(f"for the space {given.name} {path} lacks the column {name}; {shown}")
        return given
    known = known_spaces()
    fitting = [name for name, space in known.items() if set(space.columns) <= set(names)]
    if len(fitting) != 1:
        needed = "; ".join(f"{' and '.join(space.columns)} for {name}" for name, space in known.items())
        problem = (
            f"fits {' and '.join(fitting)}, choose one with --space" if fitting else f"describes no architectures; needed are {needed}"
        )
        raise TableError(f"{path} {problem}; {shown}")
    return permissive(fitting[0], options)


def _numbers(path: str, data: pa.Table, name: str, metric: str, percent: bool) -> NDArray[np.float64]:
    """(n,) a column as numbers, NaN where it is empty; accuracies as fractions."""
    try:
        values: NDArray[np.float64] = np.array(data[name].cast(pa.float64()).to_numpy())
    except pa.ArrowException as error:
        raise TableError(f"the column {name} of {path} must hold numbers: {first_line(error)}") from error
    accuracy = metric != "train_seconds"
    if accuracy and percent:
        values = values / 100.0
    (wrong,) = np.nonzero(~np.isnan(values) & ~((values >= 0) & (values <= (1 if accuracy else np.finfo(np.float64).max))))
    if len(wrong):
        hint = "accuracies are fractions in [0, 1], with --percent they are in [0, 100]" if accuracy else "seconds are not negative"
        raise TableError(f"row {wrong[0] + 1} of {path}: {name} is {data[name][int(wrong[0])]}; {hint}")
    if np.isnan(values).all():
        raise TableError(f"the column {name} of {path} is empty")
    return values


def _architectures(
    path: str, space: SearchSpace, data: pa.Table, epochs: NDArray[np.int64]
) -> tuple[list[str], NDArray[np.int64], dict[str, Any]]:
    """The ids, which of them each row is about, and further columns of the table: the space's own description, and the parameters."""
    texts = list(zip(*(data[name].to_pylist() for name in space.columns), strict=True))
    starts = range(0, len(texts), _CHUNK)
    workers = min(os.cpu_count() or 1, len(starts))
    first_row: dict[tuple[str, int], int] = {}  # of an architecture and its epochs
    places: dict[str, int] = {}
    at, parameters, descriptions = array("q"), array("q"), list[Texts]()
    with reporting(f"reading {posixpath.basename(path)}") as report, _mapped(workers) as mapped:
        for chunk in mapped(_read_rows, [(path, space, start, texts[start : start + _CHUNK]) for start in starts]):
            for arch_id, count, description in chunk:
                row, key = len(at) + 1, (arch_id, int(epochs[len(at)]))
                if first_row.setdefault(key, row) != row:
                    what = f"rows {first_row[key]} and {row} of {path} describe the same architecture, {arch_id}"
                    single = (epochs == epochs[0]).all()
                    raise TableError(what + ("; --epoch COLUMN tells several budgets apart" if single else f", after {key[1]} epochs"))
                at.append(places.setdefault(arch_id, len(places)))
                if at[-1] == len(descriptions):
                    parameters.append(count)
                    descriptions.append(description)
            report(len(at), len(texts))
    ids, columns = list(places), zip(*descriptions, strict=True)
    shown = {name: list(column) for name, column in zip(space.columns, columns, strict=True) if list(column) != ids}
    return ids, np.array(at), shown | {"trainable_parameters": parameters}


def _read_rows(work: tuple[str, SearchSpace, int, list[Texts]]) -> list[tuple[str, int, Texts]]:
    """Id, trainable parameters and description of the architectures in some rows, of which the first comes after `start` others."""
    path, space, start, rows = work
    found = []
    for number, texts in enumerate(rows, start=start + 1):
        try:
            if None in texts:
                raise OutOfSpaceError(f"{space.columns[texts.index(None)]} is empty")
            arch = space.from_columns(*texts)
        except OutOfSpaceError as error:
            raise TableError(f"row {number} of {path}: {error}") from error
        found.append((arch.id, space.cost(arch).parameters, space.to_columns(arch)))
    return found


@contextmanager
def _mapped(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """A `map` that works in so many processes, or in this one where one is enough; results come in order."""
    if workers < 2:
        yield map
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads, as pyarrow has, may hang
    pool = ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())
