"""Kendall's tau of predictors on NAS-Bench-101: what a graph network, its pieces, and unlike models together bring.

Trained on n cells drawn uniformly from the table, on the test accuracy of run 0; compared with the mean of the three runs for other cells,
as PINAT does (Lu et al., AAAI 2023). Targets are the normal quantiles of ranks. Means over the seeds, and the CPU seconds of a fit to 172
cells on one core. The last row is the same seeds' first one, on all other cells of the table.

Run: OMP_NUM_THREADS=1 python benchmarks/rank_correlation.py [TABLE] [--seeds N] [--tested M]
TABLE is a Parquet file with hash, adjacency, operations, trainable_parameters, test_accuracy_run0 and test_accuracy_mean. Settings were
chosen on the seeds 0 to 5.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import kendalltau

from raynas.arch import Arch
from raynas.model.predictors import make_predictor
from raynas.model.predictors.base import Predictor
from raynas.model.recommend import DEFAULT_ENCODING
from raynas.model.targets import rank_gauss
from raynas.spaces import make_space

SIZES = (100, 172, 424)
FIRST_SEED = 1000
WITH_PAIRS = "trunc_path_counts*0.1+operation_pairs+scalars"
WITH_COUNTS = f"graph_counts*0.5+{WITH_PAIRS}"
MODELS: dict[str, Predictor] = {
    "network on default inputs": make_predictor("mlp", {}, DEFAULT_ENCODING),
    "network, `operation_pairs`": make_predictor("mlp", {}, WITH_PAIRS),
    "network, `graph_counts`": make_predictor("mlp", {}, WITH_COUNTS),
    "Gaussian process, `operation_pairs`": make_predictor("gp", {}, WITH_PAIRS),
    "Gaussian process, `graph_counts`": make_predictor("gp", {}, WITH_COUNTS),
    "`graph`, layers of Wen et al., no positions": make_predictor("graph", {"layer": "gcn", "positions": False}),
    "`graph` without positions": make_predictor("graph", {"positions": False}),
    "`graph`": make_predictor("graph"),
    "`graph`, ranking loss": make_predictor("graph", {"loss": "rank"}),
}
TOGETHER = {
    "`graph` with both losses": ("`graph`", "`graph`, ranking loss"),
    "`committee`: both, and the Gaussian process": ("`graph`", "`graph`, ranking loss", "Gaussian process, `graph_counts`"),
}


class Cells:
    """The table; cells are made when they are asked for."""

    def __init__(self, path: Path) -> None:
        numbers = "trainable_parameters", "test_accuracy_run0", "test_accuracy_mean"
        columns = pq.read_table(path, columns=["hash", "adjacency", "operations", *numbers]).to_pydict()
        self.space = make_space("nasbench101")
        self.ids: list[str] = columns["hash"]
        self._texts = columns["adjacency"], columns["operations"]
        self.parameters, self.observed, self.truth = (np.array(columns[name], dtype=np.float64) for name in numbers)

    def archs(self, indices: Sequence[int]) -> list[Arch]:
        """Cells by their rows."""
        return [self.space.from_columns(*(texts[i] for texts in self._texts)) for i in indices]


def measure(cells: Cells, size: int, seed: int, tested: int | None, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """(tau, CPU seconds of the fit) of the models `names` and of those together whose members are all among them."""
    order = np.random.default_rng(seed).permutation(len(cells.truth))
    known, others = order[:size], order[size : None if tested is None else size + tested]
    targets, archs, unseen = rank_gauss(cells.observed[known]).values, cells.archs(known), cells.archs(others)
    means, seconds = {}, {}
    for name in names:
        began = time.process_time()
        fitted = MODELS[name].fit(cells.space, archs, targets, seed)
        seconds[name] = time.process_time() - began
        means[name] = np.concatenate([fitted.predict(unseen[i : i + 10_000]).mean for i in range(0, len(unseen), 10_000)])
    for name, members in TOGETHER.items():
        if set(members) <= set(names):
            means[name] = np.mean([means[member] for member in members], axis=0)
            seconds[name] = sum(seconds[member] for member in members)
    return {name: (float(kendalltau(mean, cells.truth[others])[0]), seconds[name]) for name, mean in means.items()}


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    table = Path(__file__).resolve().parents[2] / "shared/data/nasbench101_test108.parquet"
    parser.add_argument("table", nargs="?", default=table, type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tested", type=int, default=20_000, help="other cells, drawn uniformly")
    given = parser.parse_args()
    cells, seeds = Cells(given.table), range(FIRST_SEED, FIRST_SEED + given.seeds)
    found = {size: [measure(cells, size, seed, given.tested, list(MODELS)) for seed in seeds] for size in SIZES}
    print(f"| predictor | {' | '.join(f'n={size}' for size in SIZES)} | fit to 172, s |\n|---|{'---|' * len(SIZES)}---|")
    for name in [*MODELS, *TOGETHER]:
        taus = {size: np.array([run[name][0] for run in found[size]]) for size in SIZES}
        shown = [
            f"{tau.mean():.3f} ({tau.std(ddof=1) / np.sqrt(len(tau)):.3f})" if len(tau) > 1 else f"{tau[0]:.3f}" for tau in taus.values()
        ]
        print(f"| {name} | {' | '.join(shown)} | {np.median([run[name][1] for run in found[172]]):.1f} |", flush=True)
    (best,) = list(TOGETHER)[-1:]
    everything = {size: measure(cells, size, FIRST_SEED, None, TOGETHER[best])[best][0] for size in SIZES}
    print(f"| {best}, all other cells, one seed | {' | '.join(f'{tau:.3f}' for tau in everything.values())} | |")


if __name__ == "__main__":
    main()
