"""What is known of a run, from its folder alone. n: trials that have ended, in the order in which they did."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raynas import results, storage
from raynas.arch import Arch
from raynas.config import RunConfig
from raynas.errors import RaynasError
from raynas.outcome import Objective, declare
from raynas.results import outcome_of
from raynas.run.display import kind_of
from raynas.run.fronts import Front
from raynas.run.train_command import train_command
from raynas.spaces import SearchSpace, make_space
from raynas.status import Status, read_status
from raynas.trust import is_own, named_code

Floats = NDArray[np.float64]

_WALKS = 400  # paths through one architecture that are followed
_SAMPLED = 2000  # trials from which effects are told, evenly spread over the run
_LEAST = 3  # trials with something, and without it, for its effect to be told
_BETWEEN = " → "


class Effect(NamedTuple):
    """How trials whose architecture has something compare with the others: a difference of means, which need not be its cause."""

    name: str
    difference: float  # of the first objective, turned so that higher is better
    error: float  # standard error
    having: int
    lacking: int


@dataclass(frozen=True)
class Facts:
    """A run as a report sees it."""

    folder: str
    status: Status
    objective: Objective
    rows: list[dict[str, Any]]  # (n,) of trials, by the time of their end
    started: list[dict[str, Any]]  # trials under way, or interrupted
    space: SearchSpace | None
    no_space: str  # why there is none
    recommended: dict[str, Any] | None  # the architecture that the method advises to choose, as JSON
    called: str | None = None  # another name than that of the folder

    @property
    def name(self) -> str:
        """What to call the run beside others."""
        return self.called or folder_name(self.folder)

    @property
    def config(self) -> RunConfig:
        """Its configuration."""
        return self.status.config

    @property
    def sign(self) -> float:
        """Of the first objective: 1 where higher is better."""
        return -1.0 if self.objective.first.direction == "min" else 1.0

    @cached_property
    def values(self) -> Floats:
        """(n,) the first objective; NaN for failed trials."""
        name = self.objective.first.name
        told = [None if row["status"] == "failed" else row.get(name) for row in self.rows]
        return np.array([np.nan if value is None else value for value in told], dtype=np.float64)

    @cached_property
    def incumbent(self) -> list[int]:
        """(n,) the index of the best trial so far; -1 before any."""
        best, merit, found = -1, None, []
        for index, row in enumerate(self.rows):
            new = self.objective.merit(outcome_of(row))
            if new is not None and (merit is None or new > merit):
                best, merit = index, new
            found.append(best)
        return found

    @cached_property
    def ranked(self) -> list[int]:
        """Indices of the trials that did not fail, the best first."""
        merits = {i: merit for i, row in enumerate(self.rows) if (merit := self.objective.merit(outcome_of(row))) is not None}
        return sorted(merits, key=merits.__getitem__, reverse=True)

    @cached_property
    def on_front(self) -> list[dict[str, Any]]:
        """The rows of the trials on the front, as in front.parquet, the best of the first objective first."""
        found = Front(self.objective)
        for row in self.rows:
            found.add(row, outcome_of(row))
        return sorted(found.rows, key=lambda row: -self.sign * float(row[self.objective.first.name]))

    @cached_property
    def hours(self) -> Floats:
        """(n,) when each trial ended, since the first one started."""
        return np.array([(row["ended_at"] - self.began).total_seconds() / 3600 for row in self.rows])

    @cached_property
    def began(self) -> datetime:
        """When the first trial started."""
        first: datetime = min(row["started_at"] or row["ended_at"] for row in [*self.rows, *self.started])
        return first

    @cached_property
    def archs(self) -> list[Arch | None]:
        """(n,) the architectures; None where the space is not known, or does not know one."""
        return [self.arch(row["arch"]) for row in self.rows]

    def arch(self, text: str | dict[str, Any]) -> Arch | None:
        """The architecture that a row describes; None where the space is not known, or does not know it."""
        try:
            return None if self.space is None else self.space.from_config(json.loads(text) if isinstance(text, str) else text)
        except Exception:  # rows, and spaces of one's own, may hold anything; a picture is left out then
            return None

    @cached_property
    def predictions(self) -> Floats:
        """(k, 4) of the full evaluations that a model had predicted: index, predicted, its deviation (NaN: unknown), observed."""
        rows = [
            (i, row["predicted"], row["predicted_deviation"], value)
            for i, (row, value) in enumerate(zip(self.rows, self.values.tolist(), strict=True))
            if row["status"] == "finished" and row["predicted"] is not None
        ]
        return np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=np.float64).reshape(-1, 4)

    def running(self, parts: int = 200) -> tuple[Floats, Floats]:
        """(parts + 1,) hours, and (parts,) how many trials were under way between them on average."""
        events = [(row["started_at"], 1) for row in self.rows if row["started_at"]] + [(row["ended_at"], -1) for row in self.rows]
        if self.status.state == "running":
            events += [(row["started_at"], 1) for row in self.started if row["started_at"]]
        events.sort()
        hours = np.array([(moment - self.began).total_seconds() / 3600 for moment, _ in events])
        counts = np.cumsum([step for _, step in events])
        spent = np.concatenate([[0.0], np.cumsum(counts[:-1] * np.diff(hours))])  # trial hours up to each event
        edges = np.linspace(0, max(float(hours[-1]), 1e-9), parts + 1)
        return edges, np.diff(np.interp(edges, hours, spent)) / np.diff(edges)

    @cached_property
    def reasons(self) -> list[tuple[int, str, str]]:
        """Failures that differ in names and numbers only: how many, whose fault, and the first reason; the most frequent first."""
        counts: Counter[tuple[str, str]] = Counter()
        first: dict[tuple[str, str], str] = {}
        for row in self.rows:
            if row["status"] == "failed":
                key = row["fault"] or "architecture", kind_of(row["error"] or "")
                counts[key] += 1
                first.setdefault(key, row["error"] or "no reason is known")
        return [(count, fault, first[fault, kind]) for (fault, kind), count in counts.most_common()]

    @cached_property
    def operations(self) -> list[Effect]:
        """Effects of each operation of the space, the largest first."""
        return self._effects(self._operations_of)

    @cached_property
    def paths(self) -> list[Effect]:
        """Effects of each way from inputs to outputs, those that stand out of their error most first."""
        return sorted(self._effects(self._paths_of), key=lambda effect: -abs(effect.difference) / max(effect.error, 1e-12))

    def _operations_of(self, arch: Arch) -> set[str]:
        assert self.space is not None
        adjacency, operations = self.space.graph(arch)
        inner = (adjacency.sum(axis=0) > 0) & (adjacency.sum(axis=1) > 0)
        return {self.space.graph_operations[op] for op in operations[inner]}

    def _paths_of(self, arch: Arch) -> set[str]:
        assert self.space is not None
        adjacency, operations = self.space.graph(arch)
        names = [self.space.graph_operations[op] for op in operations]
        ahead = [np.flatnonzero(row).tolist() for row in adjacency]
        ongoing = [[int(v)] for v in np.flatnonzero(adjacency.sum(axis=0) == 0) if ahead[v]]
        found: set[str] = set()
        while ongoing and len(found) < _WALKS:
            path = ongoing.pop()
            ongoing += [[*path, w] for w in ahead[path[-1]]]
            if not ahead[path[-1]]:
                found.add(_BETWEEN.join(names[v] for v in path[1:-1]) or "(direct)")
        return found

    def _effects(self, parts_of: Any) -> list[Effect]:
        usable = [i for i, arch in enumerate(self.archs) if arch is not None and np.isfinite(self.values[i])]
        chosen = usable[:: max(1, len(usable) // _SAMPLED)]
        try:
            parts = [parts_of(self.archs[i]) for i in chosen]
        except RaynasError:  # a space of one's own need not say how its architectures are graphs
            return []
        values, effects = self.sign * self.values[chosen], []
        for name in sorted(set().union(*parts)):
            has = np.array([name in each for each in parts])
            if min(has.sum(), (~has).sum()) >= _LEAST:
                a, b = values[has], values[~has]
                error = float(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)))
                effects.append(Effect(name, float(a.mean() - b.mean()), error, len(a), len(b)))
        return sorted(effects, key=lambda effect: -effect.difference)


def read_facts(folder: str, trust: bool = False) -> Facts:
    """What the folder of a run holds. Code that its configuration names is loaded only where the run is one's own, or with `trust`.

    Raises:
        RaynasError: there is no run, or a file in it is damaged.
    """
    status = read_status(folder)
    tables = results.read(folder)
    config = status.config
    space, why = None, ""
    named = named_code({"space": config.space, "space_options": config.space_options})
    if named and not (trust or is_own(folder)):
        why = f"the run is of the space {' with '.join(named.values())}, which is loaded for your own runs alone, or with --trust"
    else:
        try:
            space = make_space(config.space, config.space_options)
        except RaynasError as error:
            why = str(error)
    best = storage.read_mapping(folder, "best.json") if storage.exists(folder, "best.json") else {}
    recommended = best.get("recommended")
    return Facts(
        folder=folder,
        status=status,
        objective=Objective.parse(config.objective, config.limit, declare(config.metrics)),
        rows=sorted(tables.trials.to_pylist(), key=lambda row: (row["ended_at"], row["order"])),
        started=tables.started.to_pylist(),
        space=space,
        no_space=why,
        recommended=recommended if isinstance(recommended, dict) else None,
    )


def folder_name(folder: str) -> str:
    """The last part of a path or URI, without the options that a URI may carry."""
    path = folder.partition("?")[0] if "://" in folder else folder
    return path.rstrip("/").rpartition("/")[2] or "run"


def told_apart(runs: Sequence[Facts]) -> list[Facts]:
    """The same runs; those whose folders have one name are called by their whole paths."""
    names = Counter(run.name for run in runs)
    return [replace(run, called=run.folder) if names[run.name] > 1 else run for run in runs]


def front(costs: Floats, merits: Floats) -> list[int]:
    """Indices of the points that no other beats in both: (n,) costs, lower is better; (n,) merits, higher is better; by cost."""
    chosen, best = [], -np.inf
    for i in np.lexsort((-merits, costs)):
        if merits[i] > best:
            chosen.append(int(i))
            best = merits[i]
    return chosen


def differences(runs: Sequence[Facts]) -> dict[str, list[Any]]:
    """The settings in which runs differ, each with its value in every run; folders and seeds aside."""
    dumped = [run.config.model_dump(exclude={"out", "seed", "address"}) for run in runs]
    return {key: [each[key] for each in dumped] for key in dumped[0] if any(each[key] != dumped[0][key] for each in dumped)}


def search_command(config: RunConfig) -> str:
    """The command line that begins the same search anew."""
    command = ["python", "-m", "raynas.search"]
    for key, info in RunConfig.model_fields.items():
        value, flag = getattr(config, key), "--" + key.replace("_", "-")
        if key in ("out", "address") or value == info.get_default(call_default_factory=True):
            continue
        if isinstance(value, bool):
            command.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list):
            command += [f"{flag}={each}" for each in value]
        elif isinstance(value, dict):
            command += [part for path, each in _leaves(value, key) for part in ("--set", f"{path}={json.dumps(each)}")]
        else:
            command += [flag, str(value)]
    return shlex.join(command)


def _leaves(value: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, f"{path}.{key}")
        else:
            yield f"{path}.{key}", inner


def training_command(run: Facts) -> str:
    """The command line that trains the best architecture."""
    command, hint = train_command(run.folder, run.config, run.config.dataset)
    return command + (f"   ({hint})" if hint else "")
