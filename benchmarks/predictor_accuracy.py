"""How well predictors know cells of NAS-Bench-101 that they have not seen: mean absolute error in points, and rank correlation.

Trained on n cells, tested on 2,000 others, drawn with the reference sampler of BANANAS or uniformly from all 423,624 cells; means over the
trials. The accuracies are the table's test accuracies after 108 epochs, mean of three runs (there is no complete column of validation
accuracies), so this measures the predictors and tunes nothing. Prints a Markdown table.

Run: python benchmarks/predictor_accuracy.py [TABLE] [--trials N]; TABLE is a Parquet file with hash and test_accuracy_mean.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from raynas.arch import Arch
from raynas.model.candidates import random_archs
from raynas.model.predictors import make_predictor
from raynas.model.ranks import spearman
from raynas.model.targets import TARGETS
from raynas.spaces import make_space
from searchers import Bananas, BananasPaper

SIZES = (20, 100, 200, 500)
TESTED = 2000
WITH_PAIRS = "trunc_path_counts*0.1+operation_pairs+scalars"


Row = tuple[str, str, Bananas | None, str]  # (name, encoding, whose predictor, target); None: a Gaussian process


def rows() -> list[Row]:
    """What is compared."""
    paper, ours = BananasPaper(), Bananas()
    return [
        ("paper's network", "adjacency", paper, "error_percent"),
        ("paper's network", "path", paper, "error_percent"),
        ("paper's network", "trunc_path", paper, "error_percent"),
        ("default", ours.encoding, ours, "error_percent"),
        ("default, log", ours.encoding, ours, "log_error"),
        ("default, log", "trunc_path_counts+scalars", ours, "log_error"),
        ("default, log", WITH_PAIRS, ours, "log_error"),
        ("Gaussian process, log", ours.encoding, None, "log_error"),
        ("Gaussian process, log", WITH_PAIRS, None, "log_error"),
    ]


def measure(archs: list[Arch], accuracy: np.ndarray, sizes: tuple[int, ...], row: Row, seed: int) -> list[tuple[float, float]]:
    """(MAE in points, Spearman) for each size."""
    _, encoding, method, target_name = row
    space = make_space("nasbench101")
    predictor = make_predictor(method.predictor, method.predictor_options, encoding) if method else make_predictor("gp", {}, encoding)
    found = []
    for n in sizes:
        target = TARGETS[target_name](accuracy[:n])
        mean = predictor.fit(space, archs[:n], target.values, seed).predict(archs[-TESTED:]).mean
        predicted = target.inverse(mean)
        found.append((100 * float(np.abs(predicted - accuracy[-TESTED:]).mean()), spearman(predicted, accuracy[-TESTED:]) or 0.0))
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "table", nargs="?", default=Path(__file__).resolve().parents[2] / "shared/data/nasbench101_test108.parquet", type=Path
    )
    parser.add_argument("--trials", type=int, default=5)
    arguments = parser.parse_args()
    columns = pq.read_table(arguments.table, columns=["hash", "test_accuracy_mean"]).to_pydict()
    known = dict(zip(columns["hash"], columns["test_accuracy_mean"], strict=True))
    print(f"| cells | predictor | inputs | {' | '.join(f'n={n}' for n in SIZES)} |\n|---|---|---|{'---|' * len(SIZES)}")
    for sampler in ("reference", "uniform"):
        space = make_space("nasbench101", {"sampler": sampler})
        drawn = []
        for seed in range(arguments.trials):
            archs = random_archs(space, (), np.random.default_rng(seed), max(SIZES) + TESTED)
            drawn.append((archs, np.array([known[arch.id] for arch in archs], dtype=np.float64)))
        for row in rows():
            trials = np.array([measure(*data, SIZES, row, seed) for seed, data in enumerate(drawn)])  # (trials, sizes, 2)
            cells = " | ".join(f"{mae:.2f} / {rank:.2f}" for mae, rank in trials.mean(axis=0))
            print(f"| {sampler} | {row[0]} | {row[1]} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
