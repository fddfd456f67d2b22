"""Which of the trials that were stopped at a rung go on: successive halving whose judge is the model, not the rank at the rung.

Whenever a worker asks for something to do, the best of those that wait at the highest rung goes on if so few of the others have that it
is due; else something new begins (as in ASHA, Li et al., arXiv 1810.05934, algorithm 2, but for the judge and the share).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from raynas.errors import ConfigError
from raynas.history import History, Observation
from searchers.method import Origin, Suggestion


@dataclass(frozen=True)
class Promotion:
    """The rule.

    Args:
        rungs: ascending budgets at which trials stop.
        full: the budget of a full evaluation.
        exponent: of the trials that have reached a rung, (budget there / budget at the next) ** exponent go on. With 1, all rungs cost
            alike, as in ASHA; with less, more is spent on full evaluations.
    """

    rungs: tuple[float, ...]
    full: float
    exponent: float

    def __post_init__(self) -> None:
        ladder = [0.0, *self.rungs, self.full]
        if not self.rungs or ladder != sorted(set(ladder)) or not self.exponent > 0:
            raise ConfigError(f"rungs must ascend to below {self.full:g}, and exponent be above 0, not {self.rungs} and {self.exponent}")

    def stops(self, history: History, arch_id: str, budget: float) -> bool:
        """Whether a running trial that has reached `budget` stops there."""
        before = history.observed.get(arch_id)
        goals = self.rungs[0 if before is None else self._passed(before) :]
        return bool(goals) and budget >= goals[0]

    def due(self, history: History, forecasts: Mapping[str, float], spent: set[str]) -> Suggestion | None:
        """What goes on now; None: nothing.

        Args:
            forecasts: by id, what is expected at the full budget; what has none waits for the next fit. Empty: values decide.
            spent: ids of what does not go on, as it failed when it did.
        """
        passed = {o.arch.id: self._passed(o) for o in history.observed.values() if o.status != "failed"}
        for rung in range(len(self.rungs), 0, -1):
            reached = [arch_id for arch_id, rungs in passed.items() if rungs >= rung]
            gone = sum(passed[arch_id] > rung or arch_id in history.pending for arch_id in reached)
            waiting = [i for i in reached if passed[i] == rung and i not in history.pending and i not in spent]
            if forecasts:
                waiting = [arch_id for arch_id in waiting if arch_id in forecasts]
            if waiting and gone < max(1.0, self._share(history, rung) * len(reached)):
                observed = history.observed
                best = max(waiting, key=lambda arch_id: forecasts[arch_id] if forecasts else observed[arch_id].value)
                return Suggestion(observed[best].arch, origin=Origin("promotion"))
        return None

    def _share(self, history: History, rung: int) -> float:
        """Of the trials that have reached this rung, counted from 1, those that go on."""
        here, beyond = (*self.rungs, self.full)[rung - 1 : rung + 1]
        reported = here
        for observation in reversed(history.observed.values()):  # trials need not report where rungs are: one that went on tells where
            budgets = [budget for budget, _ in observation.curve if budget >= here]
            if budgets:
                reported = budgets[0]
                if budgets[-1] >= beyond:
                    return float((reported / budgets[bisect_left(budgets, beyond)]) ** self.exponent)
        return float((reported / self.full) ** self.exponent)  # perhaps there is no report before the end: the first to go on will tell

    def _passed(self, observation: Observation) -> int:
        """Rungs at which it was stopped, or beyond all of them."""
        if observation.status == "finished":
            return len(self.rungs) + 1
        return bisect_right(self.rungs, observation.budget)
