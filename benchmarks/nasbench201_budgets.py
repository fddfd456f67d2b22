"""A table of NAS-Bench-201 with two budgets, for schedulers that stop early: CIFAR-10 validation accuracy after 12 and 200 epochs.

Both are trainings of their own, with a learning rate that falls to 0 at their end, so what is stopped after 12 epochs and what is not
started alike only in this simulation, as in the comparisons that others published. Times grow with the epochs.

Run: python benchmarks/nasbench201_budgets.py SRC DST; SRC is a Parquet file with arch, cifar10_valid_accuracy_12 and _200 (percent), and
cifar10_train_seconds_200.
"""

import argparse

import numpy as np
import pyarrow.parquet as pq

from raynas.tables import Table

EPOCHS = (12, 200)


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("destination")
    given = parser.parse_args()
    names = ["arch", *(f"cifar10_valid_accuracy_{epochs}" for epochs in EPOCHS), "cifar10_train_seconds_200"]
    archs, *accuracies, seconds = (column.to_numpy() for column in pq.read_table(given.source, columns=names).columns)
    Table.build(
        space="nasbench201",
        dataset="cifar10",
        ids=archs.tolist(),
        metrics={
            "valid_accuracy": np.stack(accuracies, axis=1)[:, :, None] / 100,  # (n, budgets, 1)
            "train_seconds": np.outer(seconds, np.array(EPOCHS) / EPOCHS[-1])[:, :, None],
        },
        budgets=EPOCHS,
        source="Dong & Yang 2020, https://arxiv.org/abs/2001.00326",
        licence="MIT",
        sha256=None,
        description="CIFAR-10 validation accuracy, mean over seeds; trainings of 12 and of 200 epochs",
    ).write(given.destination)


if __name__ == "__main__":
    main()
