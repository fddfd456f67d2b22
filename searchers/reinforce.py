"""REINFORCE on the decisions of a space (Williams 1992; as in Ying et al. 2019, arXiv 1902.09635). A: variables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History
from raynas.spaces import SearchSpace
from searchers.decisions import Variables, check_decisions, decide, first_new, listed
from searchers.method import Method, Origin, Proposal

Logits = list[NDArray[np.float64]]  # (A,) one array for each variable, (values,)


@dataclass(frozen=True, kw_only=True)
class Reinforce(Method):
    """REINFORCE: a policy of one independent softmax for each variable of the adjacency encoding, by gradient ascent on the value.

    Ying et al. 2019, supplement, and their code: plain gradient ascent on (value - baseline) log p, the baseline an exponential moving
    average to which the value belongs already; what is no architecture is drawn again, without an update. There is no random design
    but the first draws of the untrained policy. What differs: an architecture that is known is drawn again, too; values that a
    variable may not take after those before it have no probability; of many workers, a result moves the policy when it arrives, by the
    probabilities that the policy has by then (no importance weights), each result once. The value is not scaled: a metric that is not
    a fraction needs a learning rate in proportion.

    Args:
        learning_rate: 0.1 as published, which moves the policy little within 150 evaluations that return accuracies.
        momentum: of the baseline; 0.9 as published.
    """

    num_initial: int = 1
    learning_rate: float = 0.1
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.learning_rate > 0 or not 0 <= self.momentum < 1:
            raise ConfigError(
                f"learning_rate must be positive and momentum in [0, 1), not {self.learning_rate} and {self.momentum}; as 0.1 and 0.9"
            )

    def check(self, space: SearchSpace) -> None:
        """As `check_decisions`."""
        check_decisions(space)

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """`count` draws of the policy, fewer where it draws nothing new.

        Memory: logits, sums of the baseline, ids that were learned, and what was drawn for the pending ones.
        """
        memory = history.memory or {
            "logits": [[0.0] * n for n in space.adjacency_sizes],
            "baseline": [0.0, 0.0],
            "learned": [],
            "drawn": {},
        }
        logits, (total, weight) = [np.array(values) for values in memory["logits"]], memory["baseline"]
        learned = dict.fromkeys(memory["learned"])
        for arch, value in zip(*history.targets(), strict=True):
            if arch.id not in learned:
                learned[arch.id] = None
                total = self.momentum * total + (1 - self.momentum) * float(value)
                weight = self.momentum * weight + (1 - self.momentum)
                variables = memory["drawn"].get(arch.id) or space.adjacency(arch)
                _ascend(space, logits, variables, self.learning_rate * (float(value) - total / weight))
        drawn: dict[str, tuple[Arch, Variables]] = {}
        for _ in range(count):
            new = _draw(space, logits, {*history.observed, *history.pending, *drawn}, rng)
            if new is None:
                break
            drawn[new[0].id] = new
        kept = {arch_id: variables for arch_id, variables in memory["drawn"].items() if arch_id in history.pending}
        return Proposal(
            [arch for arch, _ in drawn.values()],
            origins=[Origin("model")] * len(drawn),
            memory={
                "logits": [values.tolist() for values in logits],
                "baseline": [total, weight],
                "learned": list(learned),
                "drawn": kept | {arch_id: list(variables) for arch_id, (_, variables) in drawn.items()},
            },
        )


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max())
    probabilities: NDArray[np.float64] = shifted / shifted.sum()
    return probabilities


def _ascend(space: SearchSpace, logits: Logits, variables: Sequence[int], step: float) -> None:
    """Moves the logits by `step` times the gradient of the log-probability of the variables."""
    for i, value in enumerate(variables):
        allowed = list(space.allowed(variables[:i]))
        gradient = -_softmax(logits[i][allowed])
        gradient[allowed.index(value)] += 1
        logits[i][allowed] += step * gradient


def _draw(space: SearchSpace, logits: Logits, known: set[str], rng: np.random.Generator) -> tuple[Arch, Variables] | None:
    """A draw of the policy that is new; where few draws are, one of what the space lists, by the policy's probabilities."""
    whole = [_softmax(values) for values in logits]

    def choose(before: Sequence[int], allowed: Sequence[int]) -> int:
        if len(allowed) == 1:
            return allowed[0]
        sums = np.cumsum(whole[len(before)][allowed])
        return allowed[int(np.searchsorted(sums, rng.random() * sums[-1], side="right").clip(max=len(allowed) - 1))]

    new = first_new(space, lambda: decide(space, choose), known)
    if new is None and (rest := listed(space)) is not None:
        likely = sum(np.log(p[rest.variables[:, i]]) for i, p in enumerate(whole))
        new = rest.most(likely + rng.gumbel(size=len(rest.archs)), known)  # the maximum after Gumbel noise is a draw
    return new
