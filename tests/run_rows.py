"""Rows of a run that tests write, and what they read back."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raynas.results import read
from raynas.run.store import RunStore

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


ORIGIN = ("proposed_by", "parent", "acquisition", "predicted", "predicted_deviation", "queue_seconds")
MEMORY = ("peak_memory", "peak_gpu_memory")


def started(order: int, **changes: Any) -> dict[str, Any]:
    row = {"order": order, "trial_id": f"t{order}", "arch_id": f"a{order}", "arch": json.dumps({"id": f"a{order}"}), "started_at": NOW}
    return row | {"checkpoint": None, "budget": None} | dict.fromkeys(ORIGIN) | changes


def trial(order: int, **changes: Any) -> dict[str, Any]:
    row = started(order)
    del row["checkpoint"], row["budget"]
    metrics = {"epochs": 3, "valid_accuracy": 0.9, "test_accuracy": 0.8, "parameters": 1000, "flops": 2000}
    times = {"train_seconds": 60.0, "wall_seconds": 2.0, "ended_at": NOW}
    how = {"status": "finished", "error": None, "error_file": None}
    how |= dict.fromkeys(("log_path", "fault", "retries", "node", "device", "run_id", "cpus", "gpus", *MEMORY))
    return row | metrics | times | how | changes


def report(order: int, epoch: int, **changes: Any) -> dict[str, Any]:
    metrics = {"valid_accuracy": epoch / 10, "test_accuracy": None, "train_loss": 1.5, "train_seconds": 20.0, "wall_seconds": 1.0}
    return {"trial_id": f"t{order}", "epoch": epoch} | metrics | dict.fromkeys(MEMORY) | changes


def add(store: RunStore, order: int) -> None:
    """A whole trial with two reports."""
    store.add_started(started(order))
    for epoch in (1, 2):
        store.add_report(report(order, epoch))
    store.add_trial(trial(order))


def keys(uri: str) -> tuple[list[str], list[tuple[str, int]], list[str]]:
    """The keys of the three tables, in their order."""
    tables = read(uri)
    reports = [(row["trial_id"], row["epoch"]) for row in tables.reports.to_pylist()]
    return tables.trials["trial_id"].to_pylist(), reports, tables.started["trial_id"].to_pylist()


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
