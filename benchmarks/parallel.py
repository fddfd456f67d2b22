"""How quality falls with parallelism: simulated searches of NAS-Bench-201 with 1, 10, 100 and 1,000 workers, and what a suggestion takes.

The simulated clock is the table's training time, so results come out of order. Models are fitted after every tenth result, with 1,000
workers after every hundredth: fits beside a control loop would come no faster then. Prints a Markdown table of the mean regret in points
of the best validation accuracy (standard error), and draws it against evaluations.

Run: python benchmarks/parallel.py [--seeds 10] [--figure benchmarks/figures/parallel.png]    (4 CPU minutes with 10 seeds)
"""

import argparse
import time

import numpy as np
from numpy.typing import NDArray

from raynas.simulate import Simulation
from raynas.spaces import make_space
from raynas.tables import Table, open_table
from searchers import Engine, Suggestion, make_method

WORKERS = {1: 300, 10: 300, 100: 600, 1000: 3000}  # -> evaluations
SHOWN = (50, 100, 200, 300, 600, 1000, 2000, 3000)
SEARCHERS = ("bananas", "evolution", "random")


class Timed(Engine):
    """Adds up how long suggestions took."""

    seconds = 0.0  # of this process

    def ask(self) -> Suggestion | None:
        """As `Engine.ask`."""
        began = time.process_time()
        suggestion = super().ask()
        self.seconds += time.process_time() - began
        return suggestion


def curve(searcher: str, table: Table, workers: int, seed: int) -> tuple[NDArray[np.float64], float]:
    """(evaluations,) regret in points of the best so far; and milliseconds of a suggestion, fits included."""
    options = {"refit_every": max(10, workers // 10)} if searcher == "bananas" else {}
    engine = Timed(make_method(searcher, options), make_space("nasbench201"), seed=seed, max_budget=table.budgets[-1])
    done = Simulation(engine, table, WORKERS[workers], workers).run()
    values = np.maximum.accumulate([result.valid_accuracy or 0.0 for result in done])
    optimum = table.best("valid_accuracy", table.budgets[-1], "mean")[1]
    return 100 * (optimum - values), 1000 * engine.seconds / WORKERS[workers]


def main() -> None:
    """Prints the table and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--figure", help="file for a picture of the curves")
    given = parser.parse_args()
    table = open_table(None, "nasbench201", "cifar10")
    print("| workers | searcher | suggest, ms | " + " | ".join(f"{n:,}" for n in SHOWN) + " |\n" + "|---" * (3 + len(SHOWN)) + "|")
    regrets = {}
    for workers in WORKERS:
        for searcher in SEARCHERS:
            runs = [curve(searcher, table, workers, seed) for seed in range(given.seeds)]
            curves = regrets[workers, searcher] = np.array([regret for regret, _ in runs])  # (seeds, evaluations)
            means, errors = curves.mean(axis=0), curves.std(axis=0, ddof=1) / np.sqrt(given.seeds)
            cells = [f"{means[n - 1]:.3f} ({errors[n - 1]:.3f})" if n <= len(means) else "" for n in SHOWN]
            print(f"| {workers:,} | {searcher} | {np.mean([ms for _, ms in runs]):.1f} | " + " | ".join(cells) + " |", flush=True)
    if given.figure:
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(1, len(WORKERS), figsize=(13, 3.6), sharey=True, layout="constrained")
        for axis, workers in zip(axes, WORKERS, strict=True):
            for searcher in SEARCHERS:
                axis.plot(np.arange(WORKERS[workers]) + 1, regrets[workers, searcher].mean(axis=0), label=searcher)
            axis.set(title=f"{workers:,} worker{'s' * (workers > 1)}", xlabel="evaluations", xscale="log")
            axis.set_yscale("symlog", linthresh=0.01)
        axes[0].set_ylabel("regret, points")
        axes[0].legend()
        figure.savefig(given.figure, dpi=100)


if __name__ == "__main__":
    main()
