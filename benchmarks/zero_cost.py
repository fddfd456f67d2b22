"""What zero-cost proxies are worth as inputs of the predictor: evaluations until the best cell of NAS-Bench-201, CIFAR-10.

Proxies are columns of a file, as normal quantiles of their ranks, beside the inputs of the default and of weight 1; ranks among all its
cells, which is more than a search could know, or (`--among`) among some random ones. All candidates have them, or (`--sifted`) as many as
where a search has to compute them. A search may propose the cells of the file, one after the other. Names joined by `+` are inputs
together. Prints a Markdown table; a difference is that to the default on the same seeds. Standard errors in brackets.

With `--ours N` it prints instead how those that `--proxies` of a search computes rank N of the cells, by Spearman's correlation with the
file: of small networks on digits, and of the published ones on random images. With `--write OUT` it writes those of the former of all cells
to another such file.

Run: python benchmarks/zero_cost.py FILE [--first 82000] [--seeds 50]    (2 CPU seconds a search)
     python benchmarks/zero_cost.py FILE --ours 200                      (2 minutes)
     python benchmarks/zero_cost.py FILE --write OUT                     (3 minutes)
FILE: Parquet with the column `arch` (arch strings) and one for each proxy.
"""

import argparse
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raynas.arch import Arch
from raynas.model.encodings import ENCODINGS
from raynas.model.proxies import Proxies
from raynas.model.ranks import Floats, spearman
from raynas.model.recommend import DEFAULT_ENCODING
from raynas.spaces import SearchSpace, Subset, make_space
from raynas.tables import open_table
from searchers import Engine, make_method
from trainables.learning.data import load
from trainables.learning.proxies import IMAGES, NAMES, AtInitialisation
from trainables.learning.recipes import make_recipe


def evaluations(space: SearchSpace, values: dict[str, float], options: dict[str, Any], seed: int) -> int:
    """How many a search takes to the best cell."""
    engine, goal = Engine(make_method("bananas", options), space, seed=seed), max(values, key=values.__getitem__)
    while goal not in engine.history.observed:
        suggestion = engine.ask()
        assert suggestion is not None
        engine.tell(suggestion.arch, values[suggestion.arch.id])
    return len(engine.history.observed)


def of_file(rows: dict[str, Floats], arch: Arch) -> Floats:
    """The proxies of an architecture."""
    return rows[arch.id]


def on_digits(space: SearchSpace) -> AtInitialisation:
    """Ours of small networks."""
    recipe = make_recipe("quick", space)
    return AtInitialisation.of(space, load("digits", 0, recipe.validation), recipe, 0)


def columns(measure: AtInitialisation, texts: pa.ChunkedArray) -> dict[str, Floats]:
    """Ours of some cells, by name."""
    values = np.array([measure.computed(measure.space.from_text(text)) for text in texts.to_pylist()])
    return dict(zip(NAMES, values.T, strict=True))


def compare(file: pa.Table, space: SearchSpace, count: int) -> None:
    """Prints how ours and those of the file rank `count` of its cells."""
    images = torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    published = AtInitialisation(space, images, torch.arange(IMAGES) % 10, 10, {}, 0)
    some = file.take(np.random.default_rng(1).permutation(len(file))[:count])
    for what, measure in {"digits": on_digits(space), "published networks": published}.items():
        ours = columns(measure, some["arch"])
        print(what, *(f"{name} {spearman(ours[name], some[name].to_numpy()):.2f}" for name in NAMES), flush=True)


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
    parser.add_argument("--sifted", action="store_true", help="only candidates that come first without proxies have them")
    parser.add_argument("--ours", type=int, metavar="N", help="compare those that a search computes, of N cells, with the file")
    parser.add_argument("--write", metavar="OUT", help="compute those of all cells, of small networks on digits, to this file")
    given = parser.parse_args()
    whole, file, seeds = make_space("nasbench201"), pq.read_table(given.file), range(given.first, given.first + given.seeds)
    if given.ours:
        compare(file, whole, given.ours)
        return
    if given.write:
        pq.write_table(pa.table({"arch": file["arch"], **columns(on_digits(whole), file["arch"])}), given.write)
        return
    table, archs = open_table(None, whole, "cifar10"), [whole.from_text(text) for text in file["arch"].to_pylist()]
    known = dict(zip(table.ids, table.values("valid_accuracy").tolist(), strict=True))
    space, values = Subset(whole, archs), {arch.id: known[arch.id] for arch in archs}

    def took(proxies: Proxies | None) -> Floats:
        options: dict[str, Any] = {"proxies": proxies}
        if not given.sifted and proxies is not None:
            name = f"proxies{len(ENCODINGS)}"  # another one each time, as encodings are remembered by name
            ENCODINGS[name] = proxies
            options = {"encoding": f"{DEFAULT_ENCODING}+{name}"}
        return np.array([evaluations(space, values, options, seed) for seed in seeds], dtype=np.float64)

    default = took(None)
    print("| input | Spearman with accuracy | mean | median | difference |\n|---|---|---|---|---|")
    print(f"| none (the default) | | {mean(default)} | {np.median(default):g} | |", flush=True)
    for names in given.inputs.split(","):
        inputs = [file[name].to_numpy().astype(np.float64) for name in names.split("+")]
        rows = dict(zip(values, np.stack(inputs, axis=1), strict=True))
        each = took(Proxies(partial(of_file, rows), given.among or len(rows)))
        told = " / ".join(f"{spearman(column, np.array(list(values.values()))):.2f}" for column in inputs)
        print(f"| {names} | {told} | {mean(each)} | {np.median(each):g} | {mean(each - default, '+')} |", flush=True)


if __name__ == "__main__":
    main()
