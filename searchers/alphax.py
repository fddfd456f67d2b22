"""AlphaX: Monte Carlo tree search with a meta network (Wang et al., arXiv 1805.07440 and 1903.11059). A: variables, n: architectures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History
from raynas.model.predictors import FittedPredictor, Predictor, make_predictor
from raynas.model.predictors.base import check_space
from raynas.spaces import SearchSpace
from searchers.decisions import Listed, Variables, check_decisions, described, first_new, listed
from searchers.method import Method, Origin, Proposal

_TRIES = 100  # random completions of a node for one that is new
_ROLLOUT_TRIES = 5  # of each that is only predicted


@dataclass(frozen=True, kw_only=True)
class AlphaX(Method):
    """AlphaX: the tree of decisions is grown where upper confidence bounds are high, and a random completion of the new node evaluated.

    A node is a beginning of the variables of the adjacency encoding, which are decided one after the other in the space's
    `decision_order`: on NAS-Bench-101 operations before edges, as in the code of its authors, where a new vertex removes all edges.
    Each round goes down by UCT, mean + 2 Cp sqrt(2 ln n_parent / n), to the first node with a child that is not in the tree yet, adds
    one, and evaluates a random architecture below it. The value that goes up is the average of its result and of the mean prediction
    for `rollouts` further ones, by a network that learns from all results (section 3 of the paper; an architecture that is known counts
    as measured).

    What differs from the code of its authors: the value is the share of all results that are worse, and Cp 0.1. Accuracies with Cp 2
    visit children by turns, as they differ by little: on NAS-Bench-201 the regret after 100 evaluations was 0.53 points with that, 0.44
    with Cp 0.1, and 0.10 with both. A pending round counts with its prediction; architectures from elsewhere are rounds at the root;
    what is evaluated is new; the network is the predictor of this library, not four layers of 512 to 2,048.

    Args:
        exploration: Cp.
        rollouts: predicted for each evaluation; 10 as published.
        predictor, predictor_options, encoding: as of BANANAS; the published network sees the adjacency matrix, too.
    """

    exploration: float = 0.1
    rollouts: int = 10
    predictor: str = "mlp"
    predictor_options: Mapping[str, Any] = field(default_factory=dict)
    encoding: str = "adjacency"

    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.exploration < 0 or self.rollouts < 1:
            raise ConfigError(f"exploration must not be negative and rollouts be at least 1, not {self.exploration} and {self.rollouts}")
        self._model()

    def _model(self) -> Predictor:
        return make_predictor(self.predictor, self.predictor_options, self.encoding)

    def check(self, space: SearchSpace) -> None:
        """As `check_decisions`; and what the network sees must be there."""
        check_decisions(space)
        check_space(self._model(), space)

    def warm_up(self, space: SearchSpace) -> None:
        """Fits a network to nothing of meaning, for which libraries are loaded."""
        rng = np.random.default_rng(0)
        self._fitted(space, [space.sample(rng) for _ in range(2)], np.arange(2, dtype=np.float64), 0)

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """`count` rounds, each as if those before it were pending. Memory: (node, id, mean prediction) of the rounds."""
        archs, values = history.targets()
        results = {arch.id: float(value) for arch, value in zip(archs, values, strict=True)}
        model = self._fitted(space, archs, values, int(rng.integers(2**31))) if len(archs) > 1 else None
        rounds: list[list[Any]] = [each for each in history.memory or [] if each[1] in results or each[1] in history.pending]
        told = {arch_id for _, arch_id, _ in rounds}
        rounds += [[[], arch_id, None] for arch_id in results if arch_id not in told]
        tree = Tree(space, self.exploration, results)
        for node, arch_id, predicted in rounds:
            tree.add(node, arch_id, predicted)
        found: list[Arch] = []
        expected: list[float | None] = []
        while len(found) < count:
            new = tree.grow({*history.observed, *history.pending, *(arch.id for arch in found)}, rng)
            if new is None:
                break
            node, arch = new
            predicted, own = self._predicted(space, model, node, arch, results, rng)
            found.append(arch)
            expected.append(own)
            rounds.append([list(node), arch.id, predicted])
            tree.add(node, arch.id, predicted)
        return Proposal(found, expected, origins=[Origin("model")] * len(found), memory=rounds)

    def _fitted(self, space: SearchSpace, archs: Sequence[Arch], values: Any, seed: int) -> FittedPredictor:
        return self._model().fit(space, archs, values, seed)

    def _predicted(
        self,
        space: SearchSpace,
        model: FittedPredictor | None,
        node: Variables,
        arch: Arch,
        results: Mapping[str, float],
        rng: np.random.Generator,
    ) -> tuple[float | None, float | None]:
        """The mean over random architectures below the node, None where it is one itself; and what is expected of `arch`."""
        if model is None:
            return None, None
        drawn = [first_new(space, lambda: _completed(space, node, rng), (), _ROLLOUT_TRIES) for _ in range(self.rollouts)]
        below = [each[0] for each in drawn if each is not None] if len(node) < len(space.adjacency_sizes) else []
        means = model.predict([arch, *below]).mean.tolist()
        known = [results.get(other.id, mean) for other, mean in zip(below, means[1:], strict=True)]
        return (sum(known) / len(known) if known else None), means[0]


def _order(space: SearchSpace) -> tuple[int, ...]:
    return space.decision_order or tuple(range(len(space.adjacency_sizes)))


def _values(space: SearchSpace, node: Sequence[int]) -> Sequence[int]:
    """What the variable that is decided below a node may be."""
    return range(space.adjacency_sizes[space.decision_order[len(node)]]) if space.decision_order else space.allowed(node)


def _completed(space: SearchSpace, node: Sequence[int], rng: np.random.Generator) -> Variables:
    decided = list(node)
    while len(decided) < len(space.adjacency_sizes):
        values = _values(space, decided)
        decided.append(values[int(rng.integers(len(values)))])
    return tuple([value for _, value in sorted(zip(_order(space), decided, strict=True))])


class Tree:
    """Visits and sums of values of the nodes; `results` by id."""

    def __init__(self, space: SearchSpace, exploration: float, results: Mapping[str, float]) -> None:
        self.space, self.exploration, self.results = space, exploration, results
        self.ordered = np.sort(list(results.values()))
        self.visits: dict[Variables, int] = {(): 0}
        self.sums: dict[Variables, float] = {(): 0.0}
        self.dead: set[Variables] = set()  # below which nothing new was found

    def add(self, node: Sequence[int], arch_id: str, predicted: float | None) -> None:
        """A round: its value goes up from `node`; nothing does where there is neither a result nor a prediction."""
        parts = [value for value in (self.results.get(arch_id), predicted) if value is not None]
        if not parts:
            return
        ranks = [np.searchsorted(self.ordered, part, side) for part in parts for side in ("left", "right")]  # of equal ones the middle
        value = float(np.mean(ranks)) / max(len(self.ordered), 1)
        for depth in range(len(node) + 1):
            key = tuple(node[:depth])
            self.visits[key] = self.visits.get(key, 0) + 1
            self.sums[key] = self.sums.get(key, 0.0) + value

    def grow(self, known: set[str], rng: np.random.Generator) -> tuple[Variables, Arch] | None:
        """A node to add, and a new architecture below it; None where nothing new is found."""
        while () not in self.dead:
            node = self._selected(rng)
            arch = None if node in self.dead else self._completion(node, known, rng)
            if arch is not None:
                return node, arch
            self.dead.add(node)
        return None

    def _selected(self, rng: np.random.Generator) -> Variables:
        """The first child on the way down that was not visited; or a node whose children are all dead, or that has none."""
        node: Variables = ()
        while len(node) < len(self.space.adjacency_sizes):
            children = [(*node, value) for value in _values(self.space, node)]
            alive = [child for child in children if child not in self.dead]
            if not alive:
                break
            fresh = [child for child in alive if child not in self.visits]
            if fresh and len(children) > 1:
                return fresh[int(rng.integers(len(fresh)))]
            node = alive[0] if len(children) == 1 else max(alive, key=self._bound)
        if len(node) < len(self.space.adjacency_sizes):
            self.dead.add(node)
        return node

    def _bound(self, node: Variables) -> float:
        """UCT, as in the code of its authors."""
        visits = self.visits[node]
        return self.sums[node] / visits + 2 * self.exploration * math.sqrt(2 * math.log(self.visits[node[:-1]]) / visits)

    def _completion(self, node: Variables, known: set[str], rng: np.random.Generator) -> Arch | None:
        if len(node) == len(self.space.adjacency_sizes):
            arch = described(self.space, _completed(self.space, node, rng))
            return None if arch is None or arch.id in known else arch
        new = first_new(self.space, lambda: _completed(self.space, node, rng), known, _TRIES)
        if new is None and (rest := listed(self.space)) is not None:
            below = np.flatnonzero((rest.variables[:, _order(self.space)[: len(node)]] == node).all(axis=1))
            new = Listed([rest.archs[i] for i in below], rest.variables[below]).most(rng.random(len(below)), known)
        return None if new is None else new[0]
