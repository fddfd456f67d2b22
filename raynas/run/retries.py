"""Which trials are tried again, when and where; and which have hung."""

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from raynas.config import RunConfig
from raynas.outcome import budget_of
from raynas.run.display import kind_of
from raynas.run.failures import Blame, Hung, blame, failure

_BASE, _LONGEST = 4.0, 64.0  # s, the delays before the tries: 1, 4, 16, 64, 64, ...
_OUTAGE = 3  # more tries where storage refuses: with the three of the default they last 213 s
_OWN = Blame("architecture")
_GAP = 10.0  # s between two looks at trials, at most: for longer the driver itself has slept, or was busy


@dataclass
class Tries:
    """How often one trial has failed, and the last time."""

    machine: int = 0  # without progress between them
    own: int = 0  # exceptions of its own
    hung: int = 0
    retries: int = 0  # in all
    reached: float = 0.0  # budget of its last report before the last failure
    blame: Blame = _OWN
    said: str = ""  # about the next try, "tried again in 4 s (1 of 3)"


@dataclass
class Clock:
    """How long a trial has run since its try began, in s."""

    ran: float = 0.0
    silent: float = 0.0  # since its last report


class Retries:
    """The rule for the trials of one session.

    A machine's fault is tried again `max_failures` times without progress, after growing delays; a trial that hung or raised an
    exception of its own once, if at all. No method of anything in Tune's is called here.

    Args:
        max_failures: 0 for never; but what is taken away with notice, as a spot node, is no failure, as in Tune.
        trial_timeout, stall_timeout: seconds that a try may take, and may be silent; None: any time.
    """

    def __init__(self, max_failures: int = 0, trial_timeout: float | None = None, stall_timeout: float | None = None) -> None:
        self.max_failures, self.trial_timeout, self.stall_timeout = max_failures, trial_timeout, stall_timeout
        self._tries: dict[str, Tries] = {}
        self._clocks: dict[str, Clock] = {}
        self._looked: float | None = None
        self._stillborn: Counter[str] = Counter()  # kinds of failures before any report

    @classmethod
    def of(cls, config: RunConfig) -> "Retries":
        """As a run is configured."""
        return cls(config.max_failures, config.trial_timeout, config.stall_timeout)

    def tries(self, trial: Any) -> Tries:
        """What is known of the failures of a trial."""
        return self._tries.get(trial.trial_id, Tries())

    def ended(self, trial: Any) -> Tries:
        """The same for a trial that has ended; it is forgotten."""
        self._clocks.pop(trial.trial_id, None)
        return self._tries.pop(trial.trial_id, Tries())

    def recovering(self, name: str, trial: Any) -> str:
        """One line about a trial, called `name`, that is tried again."""
        tries = self.tries(trial)
        fault = tries.blame.fault
        return f"{name} {'lost' if fault == 'machine' else 'failed'} ({fault}): {failure(trial).reason}; {tries.said}"

    def judge(self, trial: Any, error: BaseException, saving: bool) -> float | None:
        """In how many seconds a trial that ended with `error` is tried again; None: it has failed for good."""
        self._clocks.pop(trial.trial_id, None)
        tries = self._tries.setdefault(trial.trial_id, Tries())
        tries.blame = blame(error, saving=saving)
        reached = budget_of(trial.last_result or {})
        if reached is not None and reached > tries.reached:
            tries.reached, tries.machine = reached, 0
        number, most = self._count(tries, error, stillborn=reached is None)
        if number > most:
            return None
        tries.retries += 1
        delay = min(_BASE ** (max(number, 1) - 1), _LONGEST)
        tries.said = f"tried again in {delay:g} s" + (f" ({number} of {most})" if tries.blame.counts else "")
        return delay

    def _count(self, tries: Tries, error: BaseException, stillborn: bool) -> tuple[int, int]:
        """Which failure of its sort this is, and how many of them are tried again."""
        once, (fault, storage, counts, final) = min(1, self.max_failures), tries.blame
        if fault == "timeout":
            tries.hung += 1
            return tries.hung, once
        if fault == "machine":
            tries.machine += counts
            if not counts:
                return 0, 0
            return tries.machine, self.max_failures + _OUTAGE * (storage and self.max_failures > 0)
        tries.own += 1
        if stillborn:  # what fails so for every architecture is no accident
            kind = kind_of(str(error).rstrip().rpartition("\n")[2])
            self._stillborn[kind] += 1
            final = final or self._stillborn[kind] > 2
        return tries.own, 0 if final else once

    def report(self, trial: Any) -> None:
        """A trial has reported."""
        if clock := self._clocks.get(trial.trial_id):
            clock.silent = 0.0

    def overdue(self, running: Collection[Any]) -> list[tuple[Any, Hung]]:
        """Those of `running`, trials that have a process, whose time is over. To be asked every few seconds."""
        if self.trial_timeout is None and self.stall_timeout is None:
            return []
        now, before, self._looked = time.monotonic(), self._looked, time.monotonic()
        passed = 0.0 if before is None else min(now - before, _GAP)
        found = []
        for trial in running:
            clock = self._clocks.setdefault(trial.trial_id, Clock(-passed, -passed))
            clock.ran, clock.silent = clock.ran + passed, clock.silent + passed
            if self.stall_timeout is not None and clock.silent > self.stall_timeout:
                found.append((trial, Hung(f"TimeoutError: no report for {self.stall_timeout:g} s (--stall-timeout)")))
            elif self.trial_timeout is not None and clock.ran > self.trial_timeout:
                found.append((trial, Hung(f"TimeoutError: not done after {self.trial_timeout:g} s (--trial-timeout)")))
        return found
