"""How good the cells are that searches found: each is trained from scratch by the same recipe, with several seeds.

    python benchmarks/oneshot.py RUN ... [--epochs 30] [--seeds 3] [--jobs 1] [--device auto]

Prints a row for each method: mean and standard deviation over its searches. One-shot searches count as one for each of their seeds; other
runs recommend one cell each. The seconds are those that the trials of a search took, each on the share of a device that it was given.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch

from raynas import results, storage
from raynas.arch import Arch
from raynas.config import RunConfig, make_config
from raynas.run.supernets import FILE, read_rows
from raynas.spaces import make_space
from trainables.learning.data import load
from trainables.learning.recipes import make_recipe
from trainables.learning.trainer import Trainer, device_name, make_device


@dataclass(frozen=True)
class Found:
    """What one search found, and what it took."""

    method: str
    arch: Arch
    dataset: str
    seconds: float


def found(folder: str) -> Iterator[Found]:
    """The cells of a run."""
    config = make_config(storage.read_config(folder), RunConfig)
    space = make_space(config.space, config.space_options)
    options = "".join(f", {key} {value}" for key, value in config.searcher_options.items())
    method = f"{config.searcher}{options}" if storage.exists(folder, FILE) else f"{config.searcher}, {config.trials} trials"
    if storage.exists(folder, FILE):
        for row in read_rows(folder).values():
            yield Found(method, space.from_config(row["arch"]), config.dataset, row["seconds"])
    else:
        best, trials = storage.read_mapping(folder, "best.json"), results.read(folder).trials
        seconds = sum(filter(None, trials["wall_seconds"].to_pylist()))
        yield Found(method, space.from_config(best.get("recommended") or best["arch"]), config.dataset, seconds)


def trained(job: tuple[Found, int], epochs: int, device: str) -> tuple[float | None, float | None]:
    """Validation and test accuracy of a cell after a training with a seed."""
    cell, seed = job
    torch.set_num_threads(1)
    space = make_space("darts")
    recipe = make_recipe("quick", space)
    data = load(cell.dataset, 0, recipe.validation)
    trainer = Trainer(space, cell.arch, data, recipe, make_device(device), seed, epochs)
    for _ in range(epochs):
        trainer.train_epoch()
    return trainer.evaluate("valid"), trainer.evaluate("test")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of a search of the space darts")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3, help="of the trainings of each cell")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    cells = [cell for folder in options.runs for cell in found(folder)]
    jobs = [(cell, seed) for cell in cells for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        accuracies = list(pool.map(partial(trained, epochs=options.epochs, device=options.device), jobs))
    print(f"{device_name(make_device(options.device))}, {options.epochs} epochs, {options.seeds} trainings of each cell")
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for i, cell in enumerate(cells):
        mine = accuracies[i * options.seeds : (i + 1) * options.seeds]
        rows[cell.method].append((cell.arch.id, cell.seconds, *(100 * statistics.mean(column) for column in zip(*mine, strict=True))))
        print(cell.method, *rows[cell.method][-1], sep="\t")
    print("| method | searches | cells | s of a search | validation, % | test, % |\n|---|---|---|---|---|---|")
    for method, row in rows.items():
        ids, *columns = zip(*row, strict=True)
        seconds, valid, test = (f"{statistics.mean(c):.2f} ({statistics.stdev(c) if len(c) > 1 else 0:.2f})" for c in columns)
        print(f"| {method} | {len(row)} | {len(set(ids))} | {seconds} | {valid} | {test} |")


if __name__ == "__main__":
    main()
