"""What a search knows: architectures that finished, were stopped, failed, or are pending; and their learning curves."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch

Status = Literal["finished", "stopped", "failed"]
Curve = tuple[tuple[float, float], ...]  # (budget, value) pairs, budgets ascending

_CURVE_RATIO = 1.1  # a report closer than this factor to the last kept one replaces it, so that 1,000 epochs keep 65 points


@dataclass(frozen=True)
class Observation:
    """An architecture whose trial has ended. Values are to be maximised."""

    arch: Arch
    status: Status
    curve: Curve  # empty where the trial failed before its first report

    @property
    def value(self) -> float:
        """The value at the largest budget that the trial reached; -inf for a failed trial."""
        return self.curve[-1][1] if self.curve and self.status != "failed" else -math.inf

    def value_at(self, budget: float) -> float | None:
        """The value at `budget`, or at the largest reported budget below it."""
        values = [value for at, value in self.curve if at <= budget]
        return values[-1] if values else None


class History:
    """Observed and pending architectures of one search, by id.

    An architecture is observed at most once: a second result for the same id is ignored, so late or repeated notifications
    change nothing.
    """

    def __init__(self) -> None:
        self.observed: dict[str, Observation] = {}  # in order of completion
        self.pending: dict[str, Arch] = {}
        self._curves: dict[str, list[tuple[float, float]]] = {}  # of pending architectures

    def __len__(self) -> int:
        return len(self.observed) + len(self.pending)

    def __contains__(self, arch_id: object) -> bool:
        return arch_id in self.observed or arch_id in self.pending

    def copy(self) -> "History":
        """A snapshot that later changes do not touch."""
        other = History()
        other.observed = dict(self.observed)
        other.pending = dict(self.pending)
        other._curves = {arch_id: list(curve) for arch_id, curve in self._curves.items()}
        return other

    def start(self, arch: Arch) -> None:
        """`arch` is being evaluated."""
        self.pending[arch.id] = arch

    def report(self, arch_id: str, budget: float, value: float) -> None:
        """An intermediate value of a pending architecture; values that are not finite, and budgets seen before, are ignored."""
        if arch_id not in self.pending or not math.isfinite(value):
            return
        curve = self._curves.setdefault(arch_id, [])
        if curve and budget <= curve[-1][0]:
            return
        if len(curve) > 1 and budget < curve[-2][0] * _CURVE_RATIO:
            curve.pop()
        curve.append((budget, value))

    def has_reports(self, arch_id: str) -> bool:
        """Whether a pending architecture reported any value."""
        return bool(self._curves.get(arch_id))

    def end(self, arch_id: str, status: Status) -> None:
        """The evaluation of a pending architecture ended. Without any finite value it counts as failed."""
        arch = self.pending.pop(arch_id, None)
        curve = tuple(self._curves.pop(arch_id, ()))
        if arch is not None:
            self.add(Observation(arch, status if curve else "failed", curve))

    def withdraw(self, arch_id: str) -> None:
        """The evaluation of a pending architecture never took place; it may be proposed again."""
        self.pending.pop(arch_id, None)
        self._curves.pop(arch_id, None)

    def add(self, observation: Observation) -> None:
        """An observation made elsewhere, for instance before a restart."""
        self.withdraw(observation.arch.id)
        self.observed.setdefault(observation.arch.id, observation)

    def targets(self, last: int | None = None) -> tuple[list[Arch], NDArray[np.float64]]:
        """(n,) architectures and their values at full budget, as far as they have any, in order of completion; only of the `last`.

        A stopped trial has no value at full budget. It gets the value of its last report plus the median of what the finished
        trials gained from that budget on, so that it stays comparable, and below survivors that gained as much. Failed trials
        are left out: a lost node says nothing about an architecture.
        """
        gains: dict[float, float] = {}
        archs, values = [], []
        usable = (o for o in reversed(self.observed.values()) if o.status != "failed")
        for observation in reversed(list(islice(usable, last))):
            value = observation.value
            if observation.status == "stopped":
                budget = observation.curve[-1][0]
                if budget not in gains:
                    finished = (o for o in self.observed.values() if o.status == "finished")
                    known = [o.value - at for o in finished if (at := o.value_at(budget)) is not None]
                    gains[budget] = float(np.median(known)) if known else 0.0
                value += gains[budget]
            archs.append(observation.arch)
            values.append(value)
        return archs, np.array(values)

    def best(self) -> Observation | None:
        """The observation with the highest value: a finished one, or where none has finished a stopped one."""
        usable = [o for o in self.observed.values() if o.status != "failed"]
        return max(usable, key=lambda o: (o.status == "finished", o.value), default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of the whole state."""
        return {
            "observed": [[o.arch.to_config(), o.status, [list(point) for point in o.curve]] for o in self.observed.values()],
            "pending": [[arch.to_config(), [list(p) for p in self._curves.get(arch.id, [])]] for arch in self.pending.values()],
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "History":
        """The inverse of `to_json`."""
        history = cls()
        for config, status, curve in state["observed"]:
            history.add(Observation(Arch.from_config(config), status, tuple((float(b), float(v)) for b, v in curve)))
        for config, curve in state["pending"]:
            arch = Arch.from_config(config)
            history.start(arch)
            history._curves[arch.id] = [(float(b), float(v)) for b, v in curve]
        return history
