"""What a cluster buys: evaluations and simulated hours to the best of NAS-Bench-201's cells with 1 to 100 workers.

The simulated clock is the training time of the installed table (CIFAR-100); a run ends when the best cell is evaluated. Prints a Markdown
table, in which a run that has not found it counts with all its trials, and draws it.

Run: python benchmarks/workers.py [--seeds 16] [--figure docs/images/workers.png]    (2 CPU minutes)
"""

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raynas.plotting import colours
from raynas.simulate import Simulation
from raynas.spaces import make_space
from raynas.tables import Table, open_table
from searchers import Engine, make_method

WORKERS = (1, 8, 32, 100)
SEARCHERS = ("bananas", "evolution")
TRIALS = 200


def run(searcher: str, table: Table, workers: int, seed: int) -> tuple[float, float, bool]:
    """Evaluations and simulated hours until the best cell, or the end; and whether it was found."""
    budget = table.budgets[-1]
    engine = Engine(make_method(searcher), make_space("nasbench201"), seed=seed, max_budget=budget)
    best = table.best("valid_accuracy", budget, "mean")[0]
    done = Simulation(engine, table, TRIALS, workers).run(lambda search: search.results[-1].arch_id == best)
    return len(done), done[-1].ended / 3600, done[-1].arch_id == best


def draw(outcomes: dict[str, NDArray[np.float64]], path: str) -> None:
    """Evaluations that are needed, and how many times sooner they end than one worker; `outcomes`: by searcher, (workers, seeds, 3)."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for searcher, colour in colours(SEARCHERS).items():
        queries, hours, found = np.moveaxis(outcomes[searcher], -1, 0)  # (workers, seeds) each
        error = queries.std(axis=1, ddof=1) / np.sqrt(queries.shape[1])
        axes[0].errorbar(WORKERS, queries.mean(axis=1), error, marker="o", color=colour, label=searcher)
        axes[1].plot(WORKERS, np.median(hours, axis=1), marker="o", color=colour)
        axes[2].plot(WORKERS, 100 * found.mean(axis=1), marker="o", color=colour)
    titles: list[dict[str, Any]] = [
        {"ylabel": "evaluations", "title": f"evaluations to the best cell, or {TRIALS}", "ylim": (0, TRIALS + 5)},
        {"ylabel": "hours", "title": "simulated hours until then", "yscale": "log"},
        {"ylabel": "%", "title": f"found it within {TRIALS}", "ylim": (-3, 103)},
    ]
    for axis, settings in zip(axes, titles, strict=True):
        axis.set(xlabel="workers", xscale="log", xticks=WORKERS, xticklabels=map(str, WORKERS), **settings)
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Prints the table and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--first-seed", type=int, default=70000)
    parser.add_argument("--figure", help="file for a picture of the table")
    given = parser.parse_args()
    table = open_table(None, "nasbench201", "cifar100")
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    print("| workers | searcher | found | evaluations, mean (standard error) | median | hours, median |\n" + "|---" * 6 + "|")
    outcomes = {searcher: np.zeros((len(WORKERS), given.seeds, 3)) for searcher in SEARCHERS}
    for searcher in SEARCHERS:
        for outcome, workers in zip(outcomes[searcher], WORKERS, strict=True):
            outcome[:] = [run(searcher, table, workers, seed) for seed in seeds]
            queries, hours, found = outcome.T
            cells = [f"{found.sum():.0f} of {given.seeds}", f"{queries.mean():.1f} ({queries.std(ddof=1) / np.sqrt(given.seeds):.1f})"]
            print(f"| {workers} | {searcher} | " + " | ".join(cells) + f" | {np.median(queries):g} | {np.median(hours):.1f} |", flush=True)
    if given.figure:
        draw(outcomes, given.figure)


if __name__ == "__main__":
    main()
