"""What results of another data set are worth: evaluations until the best cell of NAS-Bench-201, with useful and with misleading priors.

For each seed an earlier search of CIFAR-10 (150 trials of the default, 150 random ones, or 150 of the default on a table whose values are
permuted among the cells) is told as a prior to a search of another data set, sequential like it. A search that has not met the best
cell by the end counts with all of its evaluations. Prints a Markdown table.

Run: python benchmarks/transfer.py [--dataset imagenet] [--first 70000] [--seeds 24]    (4 CPU minutes)
"""

import argparse

import numpy as np

from raynas.history import Observation
from raynas.spaces import make_space
from raynas.tables import open_table
from searchers import Engine, make_method

SPACE = make_space("nasbench201")
EARLIER, MOST = 150, 300  # evaluations of the earlier search, and at most of the later one
PRIORS = ("none", "default", "random", "shuffled")


def table(dataset: str) -> dict[str, float]:
    """Validation accuracy of each cell by its id."""
    opened = open_table(None, SPACE, dataset)
    return dict(zip(opened.ids, opened.values("valid_accuracy").tolist(), strict=True))


def search(engine: Engine, values: dict[str, float], trials: int, goal: str | None = None) -> list[Observation]:
    """What a search observes until it has met `goal`."""
    while len(engine.history.observed) < trials and goal not in engine.history.observed:
        suggestion = engine.ask()
        assert suggestion is not None
        engine.tell(suggestion.arch, values[suggestion.arch.id])
    return list(engine.history.observed.values())


def earlier(kind: str, values: dict[str, float], seed: int) -> list[Observation]:
    """What the earlier search has found."""
    if kind == "shuffled":
        shuffled = np.random.default_rng(seed).permutation(list(values.values())).tolist()
        values = dict(zip(values, shuffled, strict=True))
    method = make_method("random" if kind == "random" else "bananas")
    return [] if kind == "none" else search(Engine(method, SPACE, seed=seed), values, EARLIER)


def evaluations(values: dict[str, float], prior: list[Observation], seed: int, searcher: str) -> int:
    """How many a search takes to the best cell."""
    engine = Engine(make_method(searcher), SPACE, seed=seed)
    if prior:
        engine.tell_prior(prior)
    return len(search(engine, values, MOST, max(values, key=values.__getitem__)))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=70000, help="the first seed")
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--searcher", default="bananas")
    parser.add_argument("--dataset", default="imagenet", help="that is searched")
    parser.add_argument("--priors", default=",".join(PRIORS))
    given = parser.parse_args()
    cifar10, values, seeds = table("cifar10"), table(given.dataset), range(given.first, given.first + given.seeds)
    print("| prior | mean | median | a quarter beyond |\n|---|---|---|---|")
    for kind in given.priors.split(","):
        took = [evaluations(values, earlier(kind, cifar10, seed), seed, given.searcher) for seed in seeds]
        error = np.std(took, ddof=1) / np.sqrt(len(took))
        print(f"| {kind} | {np.mean(took):.1f} ({error:.1f}) | {np.median(took):g} | {np.quantile(took, 0.75):g} |", flush=True)


if __name__ == "__main__":
    main()
