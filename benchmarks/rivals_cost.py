"""What methods cost the driver: CPU time of a refit and of a suggestion at 100 and 1,000 observations, which a table answers.

A refit is the first suggestion after the observations, with all that is proposed beside it; methods that do not learn have none. A
suggestion is the mean over the ten that follow each other, as in a sequential search, with the refits that fall due.

Run: OMP_NUM_THREADS=1 python benchmarks/rivals_cost.py [--table A.parquet] [--searchers gp,tpe] [--csv FILE]; the table is one of
`raynas.convert`, without it that of NAS-Bench-201, and the searchers are those of `rivals.yaml`.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from scale import knowing

from raynas.arch import Arch
from raynas.comparing.config import names, read_configs
from raynas.model.candidates import random_archs
from raynas.spaces import make_space
from raynas.tables import Table, open_table
from searchers import make_method

SIZES = (100, 1000)
SUGGESTIONS = 10


def measure(name: str, table: Table, size: int, seed: int) -> tuple[float | None, float]:
    """(CPU seconds of a refit, or None; CPU milliseconds of a suggestion)."""
    method, space = make_method(name), make_space(table.space)
    method.warm_up(space)
    known = random_archs(space, (), np.random.default_rng(seed), size)

    def value(arch: Arch) -> float:
        return table.query(arch.id).valid_accuracy

    search = knowing(method, space, known, value, "inline")
    times = [time.process_time()]
    for _ in range(SUGGESTIONS):
        suggestion = search.ask()
        assert suggestion is not None
        search.tell(suggestion.arch, value(suggestion.arch))
        times.append(time.process_time())
    if search.problem is not None:
        raise SystemExit(f"{name} failed: {search.problem}")
    return times[1] - times[0] if method.learns else None, 1000 * (times[-1] - times[0]) / SUGGESTIONS


def main() -> None:
    """Prints a Markdown table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", help="Parquet file, as of raynas.convert")
    parser.add_argument("--searchers", help="names, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--csv", help="file for the same numbers")
    given = parser.parse_args()
    table = Table.open(given.table) if given.table else open_table(None, "nasbench201", "cifar10")
    listed = next(iter(read_configs(str(Path(__file__).with_name("rivals.yaml")), [], {}).values())).searchers
    print("| searcher | " + " | ".join(f"refit at {n:,}, s | suggestion at {n:,}, ms" for n in SIZES) + " |\n" + "|---" * 5 + "|")
    rows = []
    for name in names(given.searchers or listed):
        cells = []
        for size in SIZES:
            refits, suggestions = zip(*(measure(name, table, size, seed) for seed in range(given.seeds)), strict=True)
            refit, suggestion = None if None in refits else float(np.median(refits)), float(np.median(suggestions))
            rows.append({"searcher": name, "observations": size, "refit_seconds": refit, "suggestion_milliseconds": suggestion})
            cells += ["" if refit is None else f"{refit:.2f}", f"{suggestion:.1f}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if given.csv:
        with open(given.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
