"""What zero-cost proxies are worth as inputs of the predictor: evaluations until the best cell of NAS-Bench-201, CIFAR-10.

Proxies are columns of a file, as normal quantiles of their ranks, beside the inputs of the default and of weight 1; ranks among all its
cells, which is more than a search could know, or (`--among`) among some random ones. A search may propose the cells of the file, one after
the other. Names joined by `+` are inputs together. Prints a Markdown table; a difference is that to the default on the same seeds.
Standard errors in brackets.

Run: python benchmarks/zero_cost.py FILE [--first 82000] [--seeds 50]    (2 CPU seconds a search)
FILE: Parquet with the column `arch` (arch strings) and one for each proxy.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq

from raynas.arch import Arch
from raynas.model.encodings import ENCODINGS, Array
from raynas.model.ranks import Floats, spearman
from raynas.model.recommend import DEFAULT_ENCODING
from raynas.model.targets import rank_gauss
from raynas.spaces import SearchSpace, Subset, make_space
from raynas.tables import open_table
from searchers import Engine, make_method


def evaluations(space: SearchSpace, values: dict[str, float], encoding: str, seed: int) -> int:
    """How many a search takes to the best cell."""
    engine, goal = Engine(make_method("bananas", {"encoding": encoding}), space, seed=seed), max(values, key=values.__getitem__)
    while goal not in engine.history.observed:
        suggestion = engine.ask()
        assert suggestion is not None
        engine.tell(suggestion.arch, values[suggestion.arch.id])
    return len(engine.history.observed)


def add_encoding(name: str, ids: Sequence[str], columns: Sequence[Floats], among: int | None) -> None:
    """Registers the columns, (n,) each, of n architectures as the encoding `name`; ranks are those among so many, None: among all."""
    some = np.random.default_rng(0).permutation(len(ids))[:among]
    scales = [(np.sort(column[some]), np.sort(rank_gauss(column[some]).values)) for column in columns]
    quantiles = np.stack([np.interp(column, *scale) for column, scale in zip(columns, scales, strict=True)], axis=1).astype(np.float32)
    rows = dict(zip(ids, quantiles, strict=True))

    def encode(space: SearchSpace, archs: Sequence[Arch], paths: int | None = None) -> Array:
        return np.stack([rows[arch.id] for arch in archs])

    ENCODINGS[name] = encode


def mean(values: Floats, sign: str = "") -> str:
    """Their mean and its standard error."""
    return f"{values.mean():{sign}.1f} ({values.std(ddof=1) / np.sqrt(len(values)):.1f})"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--inputs", default="fisher,snip,grad_norm,nwot+synflow+grad_norm", help="names of columns")
    parser.add_argument("--first", type=int, default=82000, help="the first seed")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--among", type=int, help="random cells that give ranks; default: all")
    given = parser.parse_args()
    whole, file, seeds = make_space("nasbench201"), pq.read_table(given.file), range(given.first, given.first + given.seeds)
    table, archs = open_table(None, whole, "cifar10"), [whole.from_text(text) for text in file["arch"].to_pylist()]
    known = dict(zip(table.ids, table.values("valid_accuracy").tolist(), strict=True))
    space, values = Subset(whole, archs), {arch.id: known[arch.id] for arch in archs}

    def took(encoding: str) -> Floats:
        return np.array([evaluations(space, values, encoding, seed) for seed in seeds], dtype=np.float64)

    default = took(DEFAULT_ENCODING)
    print("| input | Spearman with accuracy | mean | median | difference |\n|---|---|---|---|---|")
    print(f"| none (the default) | | {mean(default)} | {np.median(default):g} | |", flush=True)
    for names in given.inputs.split(","):
        columns = [file[name].to_numpy().astype(np.float64) for name in names.split("+")]
        add_encoding(f"proxies_{names.replace('+', '_')}", list(values), columns, given.among)
        each = took(f"{DEFAULT_ENCODING}+proxies_{names.replace('+', '_')}")
        told = " / ".join(f"{spearman(column, np.array(list(values.values()))):.2f}" for column in columns)
        print(f"| {names} | {told} | {mean(each)} | {np.median(each):g} | {mean(each - default, '+')} |", flush=True)


if __name__ == "__main__":
    main()
