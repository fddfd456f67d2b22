"""What comes out of a comparison: means over the seeds, who found the best architecture and when, tables and figures.

n: seeds, q: queries (architectures evaluated).
"""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as PrintedTable

from raynas import plotting
from raynas.comparing.config import CompareConfig
from raynas.comparing.runs import Benchmark
from raynas.outcome import TEST_ACCURACY

Floats = NDArray[np.float64]
Key = tuple[str, str]  # searcher, scheduler

SHOWN = (10, 20, 30, 50, 80, 100, 150, 200, 300, 500, 1000)  # queries in the printed table


@dataclass(frozen=True)
class Outcome:
    """The curves of a comparison, and what the benchmark holds at best."""

    config: CompareConfig
    curves: pa.Table
    optimum: float  # accuracy in [0, 1], of what searches observe
    reported: float  # of what is reported: the test accuracy where the table has one
    timed: bool  # whether the table knows how long trainings take

    @classmethod
    def of(cls, config: CompareConfig, curves: pa.Table, benchmark: Benchmark) -> "Outcome":
        """With the optima of a benchmark."""
        tested = curves["test_accuracy"].null_count < len(curves)
        optimum = benchmark.optimum()
        return cls(config, curves, optimum, benchmark.optimum(TEST_ACCURACY.name) if tested else optimum, benchmark.timed)

    @property
    def kind(self) -> str:
        """Which accuracy is reported."""
        return "test" if self.curves["test_accuracy"].null_count < len(self.curves) else "valid"

    def values(self, column: str) -> dict[Key, Floats]:
        """(n, q) a column of the curves of each searcher with each scheduler; NaN where unknown."""
        found: dict[Key, dict[int, list[float]]] = {}
        columns = (self.curves[name].to_pylist() for name in ("searcher", "scheduler", "seed", column))
        for searcher, scheduler, seed, value in zip(*columns, strict=True):
            found.setdefault((searcher, scheduler), {}).setdefault(seed, []).append(np.nan if value is None else value)
        return {key: _stacked(list(runs.values())) for key, runs in found.items()}

    def errors(self, column: str) -> dict[Key, Floats]:
        """(n, q) the same of an accuracy, as error in percent."""
        return {key: 100 * (1 - runs) for key, runs in self.values(column).items()}

    def regrets(self) -> dict[Key, Floats]:
        """(n, q) points by which the best observed accuracy is below the optimum."""
        return {key: 100 * (self.optimum - runs) for key, runs in self.values("valid_accuracy").items()}

    def until_found(self) -> dict[Key, Floats]:
        """(n,) queries until the best architecture was observed; infinite where it was not."""
        met = {key: runs <= 0 for key, runs in self.regrets().items()}
        return {key: np.where(runs.any(axis=1), runs.argmax(axis=1) + 1.0, np.inf) for key, runs in met.items()}


def _stacked(runs: list[list[float]]) -> Floats:
    """(n, q of the longest): a run that ended early, in a small space, keeps its last value."""
    longest = max(map(len, runs))
    return np.array([run + [run[-1]] * (longest - len(run)) for run in runs])


def summarize(outcome: Outcome) -> list[dict[str, Any]]:
    """Mean and standard error over the seeds, at round numbers of queries; errors in percent, regret in points."""
    rows = []
    columns = {
        "valid_error": outcome.errors("valid_accuracy"),
        "test_error": outcome.errors("test_accuracy"),
        "recommended_test_error": outcome.errors("recommended_test_accuracy"),
        "regret": outcome.regrets(),
    }
    found = outcome.until_found()
    for key, runs in columns["valid_error"].items():
        last = runs.shape[1]
        for queries in sorted({q for q in SHOWN if q < last} | {last}):
            row: dict[str, Any] = {"searcher": key[0], "scheduler": key[1], "queries": queries, "seeds": len(runs)}
            for name, values in columns.items():
                row[f"{name}_mean"], row[f"{name}_se"] = _mean(values[key][:, queries - 1])
            rows.append(row | {"found_share": float((found[key] <= queries).mean())})
    return rows


def _mean(values: Floats) -> tuple[float | None, float | None]:
    """Mean and standard error of those that are known."""
    values = values[np.isfinite(values)]
    mean = float(values.mean()) if len(values) else None
    return mean, float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def summarize_found(outcome: Outcome) -> list[dict[str, Any]]:
    """How many runs observed the best architecture, and after how many queries.

    The median is over all runs, those that did not find it counting as infinite, and is missing where it is; the mean is over those that
    did, and so flatters a searcher that seldom does.
    """
    rows = []
    for (searcher, scheduler), queries in outcome.until_found().items():
        met = queries[np.isfinite(queries)]
        median = float(np.sort(queries)[[(len(queries) - 1) // 2, len(queries) // 2]].mean())
        rows.append(
            {
                "searcher": searcher,
                "scheduler": scheduler,
                "seeds": len(queries),
                "found": len(met),
                "share": len(met) / len(queries),
                "median_queries": median if np.isfinite(median) else None,
                "mean_queries_of_found": float(met.mean()) if len(met) else None,
            }
        )
    return rows


def as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The content of a file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


# -- on the terminal -------------------------------------------------------------------------------------------------------


def show(outcome: Outcome, rows: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], files: Sequence[str]) -> None:
    """Prints the tables of `summarize` and, where any run found the best architecture, of `summarize_found`."""
    queries = sorted({row["queries"] for row in rows})
    lines = _lines(rows, queries, f"{outcome.kind}_error")
    wide = 30 + 16 * len(queries)
    console = Console() if sys.stdout.isatty() else Console(width=wide)
    kind = "test" if outcome.kind == "test" else "validation"
    title = f"mean {kind} error (standard error), %, of the best architecture observed"
    columns = [str(q) for q in queries] if console.width >= wide else ["evaluations", "error"]
    shown = PrintedTable("searcher", "scheduler", *columns, title=title, title_justify="left")
    for searcher, scheduler, cells in lines:
        if console.width >= wide:
            shown.add_row(searcher, scheduler, *cells)
        for query, cell in zip(queries, cells, strict=True) if console.width < wide else ():
            shown.add_row(*((searcher, scheduler) if query == queries[0] else ("", "")), str(query), cell)
    console.print(shown)
    if any(row["found"] for row in found):
        title = "runs that observed the best of the table, and when"
        shown = PrintedTable("searcher", "scheduler", "runs", "evaluations, median", title=title, title_justify="left")
        for row in found:
            median = f"{row['median_queries']:g}" if row["median_queries"] is not None else f"> {queries[-1]}"
            shown.add_row(row["searcher"], row["scheduler"], f"{row['found']} of {row['seeds']}", median)
        console.print(shown)
    console.print(f"{seeds(outcome)}; the best of the table: {100 * (1 - outcome.reported):.3f} %", highlight=False)
    console.print(f"Results: {outcome.config.out} ({', '.join(files)})", highlight=False, soft_wrap=True)


def _lines(rows: Sequence[Mapping[str, Any]], queries: Sequence[int], name: str) -> list[tuple[str, str, list[str]]]:
    """Searcher, scheduler and the cells of each line of the table."""
    lines: list[tuple[str, str, list[str]]] = []
    for searcher, scheduler in dict.fromkeys((row["searcher"], row["scheduler"]) for row in rows):
        mine = {row["queries"]: row for row in rows if (row["searcher"], row["scheduler"]) == (searcher, scheduler)}
        lines.append((searcher, scheduler, [cell(mine[q], name) if q in mine else "" for q in queries]))
        recommended = [(row["recommended_test_error_mean"], row["test_error_mean"]) for row in mine.values()]
        if any(mean is not None and mean != observed for mean, observed in recommended):
            cells = [cell(mine[q], "recommended_test_error") if q in mine else "" for q in queries]
            lines.append(("  as recommended", scheduler, cells))
    return lines


def cell(row: Mapping[str, Any], name: str) -> str:
    """A mean with its standard error; empty where unknown."""
    mean, deviation = row[f"{name}_mean"], row[f"{name}_se"]
    return "" if mean is None else f"{mean:.3f}" + (f" ({deviation:.3f})" if deviation is not None else "")


def seeds(outcome: Outcome) -> str:
    """How many there are."""
    counts = sorted({row["seeds"] for row in summarize_found(outcome)})
    return f"{counts[0]}{f' to {counts[-1]}' if counts[1:] else ''} seeds from {outcome.config.first_seed}"


# -- figures ---------------------------------------------------------------------------------------------------------------


def figures(outcome: Outcome) -> dict[str, bytes]:
    """Pictures (PNG) by file name: the curves, and when the best architecture was found, if it was."""
    config, kind = outcome.config, outcome.kind
    title = f"{config.space}, {config.dataset}: {seeds(outcome)}"
    hours = {key: at / 3600 for key, at in outcome.values("simulated_seconds").items()} if outcome.timed else None
    errors = outcome.errors(f"{kind}_accuracy")
    named = "test" if kind == "test" else "validation"
    drawn = {"curves.png": plotting.comparison(errors, hours, title=title, kind=named, optimum=100 * (1 - outcome.reported))}
    found = outcome.until_found()
    if any(np.isfinite(queries).any() for queries in found.values()):
        longest = max(runs.shape[1] for runs in errors.values())
        drawn["found.png"] = plotting.shares(found, longest, title=title)
    return {name: _png(figure) for name, figure in drawn.items()}


def _png(figure: Any) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    return picture.getvalue()
