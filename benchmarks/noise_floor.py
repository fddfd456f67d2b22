"""How far noise alone keeps setting B from the best cell, and how far the search does. N: cells, n: those with a prior.

Setting B is NAS-Bench-101, searched by run 0, judged by runs 1 and 2. The prior is one that no search has: gradient boosting on run 0 of
all large cells, each half of the table predicted from the other half. Where it predicts about the same, the covariance of the residuals of
run 0 and of the other runs is the variance of what the prior misses, and the rest of run 0's is noise; errors then have normal posteriors,
given run 0 or given all runs. Of the cells that each search evaluated, the rows are

* best observed: by run 0;
* recommended: by the method, which knows no other cell;
* prior alone, posterior given run 0: by what the whole table's run 0 says; the second is what a recommender with this prior takes;
* luckiest: by runs 1 and 2 themselves;
* truly best: the lowest of errors drawn from the posterior given all runs, on average.

The last rows choose among the cells that the prior likes best, as a search would that knew it from the start. Judges are runs 1 and 2 (in
brackets the standard error over the seeds); all three runs, as where the run that was searched is among those that are reported; and the
posterior mean given all runs, which has less of the luck of two.

Run: OMP_NUM_THREADS=1 python benchmarks/noise_floor.py [TABLE] [--seeds N] [--first-seed S] [--options JSON]
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rank_correlation import WITH_COUNTS, Cells

from raynas.model.encodings import encode
from searchers import make_engine

Floats = NDArray[np.float64]
TRIALS = 100, 150
FAILED = 12.0  # % error; beyond, a training has failed, which says nothing of good cells
LEAST = 5e6  # parameters of a cell that the prior learns from: 3 of the 346 best cells have fewer
WINDOW = 4000  # cells of like prediction, of which variances are estimated
ROWS = 8192


@dataclass(frozen=True)
class Posteriors:
    """Errors in % of N cells; NaN for those without a prior."""

    observed: Floats  # run 0
    others: Floats  # mean of runs 1 and 2
    prior: Floats
    given_run0: Floats  # posterior mean
    given_all: Floats
    deviation: Floats  # of the posterior given all


def posteriors(cells: Cells, rows: NDArray[np.int64]) -> Posteriors:
    """By a prior for these rows; variances are local, and those of failed trainings left out."""
    run0 = 100 * (1 - cells.observed)
    others = 100 * (1 - (3 * cells.truth - cells.observed) / 2)
    found = Posteriors(run0, others, *(np.full(len(run0), np.nan) for _ in range(4)))
    guess = smoothed(cells, rows, np.minimum(run0[rows], FAILED))
    order = np.argsort(guess)
    for window in np.array_split(order, max(1, len(order) // WINDOW)):
        at = rows[window]
        fine = np.maximum(run0[at], others[at]) < FAILED
        center = guess[window] + np.mean(((run0 + 2 * others)[at] / 3 - guess[window])[fine])
        first, second = run0[at] - center, others[at] - center
        missed = max(float(np.cov(first[fine], second[fine])[0, 1]), 1e-6)
        noise = float(np.var((first - second)[fine]) / 1.5)
        found.prior[at] = center
        found.given_run0[at] = center + missed / (missed + noise) * first
        found.given_all[at] = center + missed / (missed + noise / 3) * (first + 2 * second) / 3
        found.deviation[at] = np.sqrt(missed * noise / 3 / (missed + noise / 3))
    return found


def smoothed(cells: Cells, rows: NDArray[np.int64], errors: Floats) -> Floats:
    """(n,) predictions of errors (n,), each half of the rows from the other half."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    parts = [cells.archs(rows[i : i + ROWS].tolist()) for i in range(0, len(rows), ROWS)]
    inputs = np.concatenate([encode(WITH_COUNTS, cells.space, part) for part in parts])
    inputs = inputs[:, inputs.std(axis=0) > 0]
    half = np.random.default_rng(0).random(len(rows)) < 0.5
    predicted = np.empty(len(rows))
    for known in (half, ~half):
        model = HistGradientBoostingRegressor(max_iter=250, learning_rate=0.12, max_leaf_nodes=48, early_stopping=False, random_state=0)
        predicted[~known] = np.exp(model.fit(inputs[known], np.log(errors[known])).predict(inputs[~known]))
    return predicted


def searches(cells: Cells, seeds: range, options: dict[str, object]) -> Iterator[list[tuple[list[int], int]]]:
    """For each seed and number of trials: the rows that BANANAS evaluated, and the one that it recommends."""
    row = {name: i for i, name in enumerate(cells.ids)}
    for seed in seeds:
        engine = make_engine("bananas", cells.space, options, seed=seed)
        evaluated: list[int] = []
        states = []
        while len(evaluated) < max(TRIALS) and (suggestion := engine.ask()) is not None:
            evaluated.append(row[suggestion.arch.id])
            engine.tell(suggestion.arch, float(cells.observed[evaluated[-1]]))
            if len(evaluated) in TRIALS and (chosen := engine.recommend()) is not None:
                states.append((list(evaluated), row[chosen.id]))
        engine.close()
        yield states


def choices(found: Posteriors, evaluated: list[int], recommended: int) -> dict[str, int]:
    """Which row each rule takes."""
    rows = np.array(evaluated)
    rules = {"prior alone": found.prior, "posterior given run 0": found.given_run0, "luckiest": found.others}
    best = {name: int(rows[np.nanargmin(merit[rows])]) for name, merit in rules.items()}
    return {"best observed": int(rows[found.observed[rows].argmin()]), "recommended": recommended, **best}


def truly_best(found: Posteriors, evaluated: list[int]) -> float:
    """Mean of the lowest error among draws from the posterior given all runs."""
    rows = np.array([row for row in evaluated if np.isfinite(found.prior[row])])
    drawn = found.given_all[rows] + found.deviation[rows] * np.random.default_rng(0).standard_normal((1000, len(rows)))
    return float(drawn.min(axis=1).mean())


def shown(values: Sequence[float] | Floats) -> str:
    """Mean and standard error; those without a prior, whose posterior is not known, do not count."""
    values = np.array(values)[np.isfinite(values)]
    return f"{np.mean(values):.3f} ({np.std(values, ddof=1) / np.sqrt(len(values)):.3f})"


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    table = Path(__file__).resolve().parents[2] / "shared/data/nasbench101_test108.parquet"
    parser.add_argument("table", nargs="?", default=table, type=Path)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=5000)
    parser.add_argument("--options", type=json.loads, default={}, help="of the searcher, as JSON")
    given = parser.parse_args()
    cells = Cells(given.table)
    found = posteriors(cells, np.flatnonzero(cells.parameters > LEAST))
    runs = list(searches(cells, range(given.first_seed, given.first_seed + given.seeds), given.options))
    judges = {"runs 1 and 2": found.others, "all runs": (found.observed + 2 * found.others) / 3, "posterior": found.given_all}
    print(f"| chosen | {' | '.join(f'{n}, {judge}' for n in TRIALS for judge in judges)} |\n|---|{'---|' * len(judges) * len(TRIALS)}")
    chosen = [[choices(found, *state) for state in states] for states in runs]
    for name in chosen[0][0]:
        at = [np.array([each[i][name] for each in chosen]) for i in range(len(TRIALS))]
        print(f"| {name} | {' | '.join(shown(judge[rows]) for rows in at for judge in judges.values())} |")
    best = [shown([truly_best(found, states[i][0]) for states in runs]) for i in range(len(TRIALS))]
    print(f"| truly best | {' | '.join(f' | | {value}' for value in best)} |")
    liked = np.argsort(found.prior)[: np.isfinite(found.prior).sum()]
    for count in (*TRIALS, len(liked)):
        row = liked[found.given_run0[liked[:count]].argmin()]
        values = " | ".join(f"{judge[row]:.3f}" for judge in judges.values())
        print(f"| posterior given run 0, of the {count:,} that the prior likes best | {values} |{' |' * len(judges)}")


if __name__ == "__main__":
    main()
