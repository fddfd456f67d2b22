"""What earlier sessions of a run have left, and how their unfinished trials go on."""

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from raynas import results
from raynas.arch import Arch
from raynas.columns import STARTED
from raynas.errors import RaynasError, ResultsError
from raynas.outcome import STATUSES
from raynas.results import Tables
from raynas.run.checkpoints import Saved, checked
from raynas.spaces import SearchSpace
from raynas.storage import parse_json

_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")  # of trials; names of files are made of it


def read_earlier(uri: str) -> Tables:
    """The tables of a run, whose rows may go on: what they say can be believed, but for the architectures themselves.

    Raises:
        ResultsError: there is no run, or a row holds what no run of ours has written, as a path that leads out of the folder.
    """
    tables = results.read(uri)
    trials, started = tables.trials.to_pylist(), tables.started.to_pylist()
    for row in [*trials, *started]:
        nulls = [field.name for field in STARTED if not field.nullable and row[field.name] is None]
        if nulls or not _ID.fullmatch(row["trial_id"]):
            raise ResultsError(f"{uri} is damaged: a trial is called {row['trial_id']!r}" + "".join(f", its {n} is missing" for n in nulls))
        parse_arch(row)
    for row in trials:
        if row["status"] not in STATUSES:
            raise ResultsError(f"{uri} is damaged: trial {row['trial_id']} has the status {row['status']!r}, none of {', '.join(STATUSES)}")
        if row["ended_at"] is None:
            raise ResultsError(f"{uri} is damaged: trial {row['trial_id']} has ended, but when is missing")
    for row in started:
        saved_of(row)
    twice = [order for order, count in Counter(row["order"] for row in [*trials, *started]).items() if count > 1]
    if twice:
        raise ResultsError(f"{uri} is damaged: several trials have the order {twice[0]}")
    return tables


def saved_of(row: Any) -> Saved | None:
    """What a row of trials under way notes of its last checkpoint; raises ResultsError where that is none of this run's."""
    return checked(row["checkpoint"], f"the checkpoint of trial {row['trial_id']}") if row["checkpoint"] else None


def parse_arch(row: Any) -> Any:
    """The description of the architecture in a row; raises ResultsError where it is no mapping."""
    value = parse_json(row["arch"], f"the architecture of trial {row['trial_id']}")
    if not isinstance(value, dict):
        raise ResultsError(f"the architecture of trial {row['trial_id']} is damaged: it must be a mapping, not {value!r}")
    return value


def arch_of(row: Any, space: SearchSpace) -> Arch:
    """The architecture of a trial.

    Raises:
        ResultsError: the row holds none of this space.
    """
    try:
        return space.from_config(parse_arch(row))
    except RaynasError as error:
        raise ResultsError(f"the row of trial {row['trial_id']} is damaged: {error}") from error
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:  # a space of the user's own
        raise ResultsError(f"the architecture of trial {row['trial_id']} is damaged: {type(error).__name__}: {error}") from error


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

    def checkpoints(self) -> list[Saved]:
        """Those that unfinished trials go on from, as `Checkpoints.noted` made them."""
        return [saved for row in self.unfinished.values() if (saved := saved_of(row)) is not None]
