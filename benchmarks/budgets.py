"""What short trainings save: simulated hours until a search holds the best cell of a table, or one nearly as good, by scheduler.

The searcher is BANANAS. `asha` stops three of four at each rung, as in the comparisons that others published. A trial that goes on with
`bananas-asha` begins where it was stopped, as one that ASHA lets go on does.

Run: python benchmarks/budgets.py TABLE [--workers 4 32 --seeds 20 --first-seed 97000]; TABLE comes from nasbench201_budgets.py, or from
raynas.convert and any results at several budgets. Printed, as Markdown, are medians (means) of the hours; of runs that never get there the
hours that they lasted count. `floor` is bananas-asha whose model is told what every trial that was stopped would reach: what any judge
of those that wait could save at most.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raynas.history import History
from raynas.run.schedulers import make_scheduler
from raynas.simulate import Simulation
from raynas.spaces import make_space
from raynas.tables import Table, searchable
from searchers import Bananas, Engine
from searchers.method import Suggestion
from searchers.promotion import Promotion

SCHEDULERS: dict[str, dict[str, Any]] = {"fifo": {}, "asha": {"reduction_factor": 4}, "bananas-asha": {}}
FLOOR = "floor"
POINTS = (3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.0)  # of validation accuracy below the best
MOST = 1000  # trials


@dataclass(frozen=True, kw_only=True)
class Knowing(Promotion):
    """The rule with a judge who knows the table."""

    final: Mapping[str, float]  # by id, the value at the full budget

    def due(self, history: History, forecasts: Mapping[str, float], spent: set[str]) -> Suggestion | None:
        """What goes on now."""
        return super().due(history, self.final, spent)


def hours(table: Table, space: Any, scheduler: str, workers: int, seed: int) -> tuple[list[float], int]:
    """When the search held a cell as good as each of POINTS, and how many of the trials had ended."""
    np.random.seed(seed)  # ASHA draws its brackets from numpy's global generator
    full = table.budgets[-1]
    engine = Engine(Bananas(), space, seed=seed, max_budget=full)
    final = {arch.id: table.query(arch.id, full, "mean").valid_accuracy or 0.0 for arch in space.enumerate()}
    best = max(final.values())
    made = make_scheduler("bananas-asha" if scheduler == FLOOR else scheduler, "valid_accuracy", "max", full, SCHEDULERS.get(scheduler))
    if scheduler == FLOOR:
        made.promotion = Knowing(**vars(made.promotion), final=final)
    simulation = Simulation(engine, table, MOST, workers, made, seed=seed)
    reached: dict[float, float] = {}

    def note(now: Simulation) -> bool:
        if now.best is not None and now.best.status == "finished":
            missing = 100 * (best - (now.best.valid_accuracy or 0.0))
            for point in POINTS:
                if missing <= point + 1e-9:
                    reached.setdefault(point, now.now)
        return len(reached) == len(POINTS)

    ended = simulation.run(note)
    assert engine.problem is None, engine.problem
    return [reached.get(point, simulation.now) / 3600 for point in POINTS], len(ended)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--workers", type=int, nargs="+", default=[4, 32])
    parser.add_argument("--schedulers", nargs="+", default=list(SCHEDULERS), choices=[*SCHEDULERS, FLOOR])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=97000)
    given = parser.parse_args()
    table = Table.open(given.table)
    space = searchable(table, make_space(table.space), tuple(table.budgets), "mean")
    print("| workers | scheduler | trials | " + " | ".join(f"{point:g} points" for point in POINTS) + " |")
    print("|---" * (3 + len(POINTS)) + "|")
    for workers in given.workers:
        for scheduler in given.schedulers:
            runs = [hours(table, space, scheduler, workers, given.first_seed + i) for i in range(given.seeds)]
            columns = np.array([run for run, _ in runs]).T  # (points, seeds)
            cells = [f"{np.median(column):.2f} ({column.mean():.2f})" for column in columns]
            print(f"| {workers} | {scheduler} | {np.mean([trials for _, trials in runs]):.0f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
