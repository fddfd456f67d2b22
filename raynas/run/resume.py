"""What earlier sessions of a run have left, and how their unfinished trials go on."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from raynas.results import Tables


class Earlier:
    """What the tables of earlier sessions say; of a new run, without `tables`, nothing."""

    def __init__(self, tables: Tables | None = None) -> None:
        self.ended: Sequence[dict[str, Any]] = () if tables is None else tables.trials.to_pylist()
        started = [] if tables is None else tables.started.to_pylist()
        self.epochs: dict[str, int] = {}  # trial id -> last recorded epoch of an unfinished trial
        self._reports: dict[str, list[dict[str, Any]]] = {row["trial_id"]: [] for row in started}
        for report in [] if tables is None else tables.reports.to_pylist():
            if report["trial_id"] in self._reports:
                self._reports[report["trial_id"]].append(report)
                self.epochs[report["trial_id"]] = report["epoch"]
        # By architecture; what was silent for longest comes last, as it may have hung.
        alive = sorted(started, key=self._last_sign, reverse=True)
        self.unfinished: dict[str, dict[str, Any]] = {row["arch_id"]: row for row in alive}
        self.next_order: int = 1 + max((row["order"] for row in [*self.ended, *started]), default=-1)
        self.seconds = 0.0  # from the first start to the last end of a trial
        if self.ended:
            span = max(row["ended_at"] for row in self.ended) - min(row["started_at"] for row in self.ended)
            self.seconds = span.total_seconds()

    def _last_sign(self, row: dict[str, Any]) -> datetime:
        """When an unfinished trial last reported, or else started."""
        seconds = [report["wall_seconds"] or 0.0 for report in self._reports[row["trial_id"]]]
        started: datetime = row["started_at"]
        return started + timedelta(seconds=max(seconds, default=0.0))

    def take(self, arch_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """The row in `started` of an unfinished trial, and its reports, for the trial that goes on with it; None where there is none."""
        row = self.unfinished.pop(arch_id, None)
        return None if row is None else (row, self._reports.pop(row["trial_id"]))

    def checkpoints(self) -> list[dict[str, Any]]:
        """Those that unfinished trials go on from, as `Checkpoints.noted` made them."""
        return [json.loads(row["checkpoint"]) for row in self.unfinished.values() if row["checkpoint"]]
