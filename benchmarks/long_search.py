"""Whether long searches come to an isolated best cell: that of NAS-Bench-101 (5.682 %), far from whatever leads to the second (5.766 %).

Setting A of `benchmarks/README.md`. A run ends when it has evaluated the best cell. Prints a line for each seed, then of all runs the share
that holds it and the mean error after some numbers of evaluations, as Markdown.

Run: python benchmarks/long_search.py --table A.parquet [--seeds 16] [--without]    (about a CPU minute for each seed)
"""

import argparse
import time
from typing import Any, NamedTuple

import numpy as np

from raynas.simulate import Simulation
from raynas.spaces import SearchSpace, make_space
from raynas.tables import Table, open_table
from searchers import Engine, make_method

MARKS = (50, 100, 150, 500, 1000, 1500, 2000)


class Run(NamedTuple):
    """One search."""

    errors: list[float]  # in %, of the best of so many evaluations
    found: bool  # with the last of them, the best cell
    seconds: float  # of this process's CPU time

    def after(self, evaluations: int) -> float:
        """The error then."""
        return self.errors[min(evaluations, len(self.errors)) - 1]

    def held(self, evaluations: int) -> bool:
        """Whether it had found the best cell by then."""
        return self.found and len(self.errors) <= evaluations


def search(space: SearchSpace, table: Table, seed: int, options: dict[str, Any]) -> Run:
    """BANANAS, one trial at a time."""
    began, budget = time.process_time(), table.budgets[-1]
    best = table.best("valid_accuracy", budget, "mean")[0]
    engine = Engine(make_method("bananas", options), space, seed=seed, max_budget=budget)
    done = Simulation(engine, table, MARKS[-1]).run(lambda run: run.results[-1].arch_id == best)
    errors = 100 * (1 - np.maximum.accumulate([result.valid_accuracy for result in done]))
    return Run(errors.tolist(), done[-1].arch_id == best, time.process_time() - began)


def main() -> None:
    """Prints what each run came to, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help="of setting A")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--first-seed", type=int, default=94000)
    parser.add_argument("--without", action="store_true", help="surveys: with survey_after=None")
    given = parser.parse_args()
    space, table, runs = make_space("nasbench101"), open_table(given.table, "nasbench101", "cifar10"), list[Run]()
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        run = search(space, table, seed, {"survey_after": None} if given.without else {})
        ending = f"found the best cell with evaluation {len(run.errors)}" if run.found else f"{run.errors[-1]:.3f} % in the end"
        print(f"seed {seed}: {run.after(50):.3f}, {run.after(100):.3f}, {run.after(150):.3f} %; {ending}; {run.seconds:.0f} s", flush=True)
        runs.append(run)
    print("\n| evaluations | hold the best cell | error, mean % (standard error) |\n" + "|---" * 3 + "|")
    for mark in MARKS:
        errors = np.array([run.after(mark) for run in runs])
        spread = errors.std(ddof=1) / np.sqrt(len(runs)) if len(runs) > 1 else np.nan
        print(f"| {mark:,} | {sum(run.held(mark) for run in runs)} of {len(runs)} | {errors.mean():.3f} ({spread:.3f}) |")


if __name__ == "__main__":
    main()
