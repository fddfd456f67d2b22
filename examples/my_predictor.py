"""A predictor of your own for BANANAS: `--set searcher_options.predictor=my_predictor:GraphRidge`."""

from dataclasses import dataclass

import numpy as np

from raynas import EnsemblePrediction


@dataclass(frozen=True)
class GraphRidge:
    """Ridge regression on how often an operation feeds another, read off the graphs of architectures."""

    penalty: float = 1.0

    def fit(self, space, archs, targets, seed):
        def inputs(archs):
            counts = np.zeros((len(archs), len(space.graph_operations), len(space.graph_operations)))
            for row, (adjacency, operations) in zip(counts, map(space.graph, archs), strict=True):
                sources, ends = np.nonzero(adjacency)
                np.add.at(row, (operations[sources], operations[ends]), 1)
            return counts.reshape(len(archs), -1)

        x, rng = inputs(archs), np.random.default_rng(seed)
        members = []
        for _ in range(5):  # each member sees a sample of its own
            chosen = rng.integers(len(x), size=len(x))
            a, y = x[chosen], targets[chosen]
            members.append(np.linalg.solve(a.T @ a + self.penalty * np.eye(a.shape[1]), a.T @ (y - targets.mean())))
        return Fitted(inputs, np.array(members), targets.mean())


@dataclass(frozen=True)
class Fitted:
    """What a fit gives: five predictions of each architecture."""

    inputs: object
    members: np.ndarray
    center: float

    def predict(self, archs):
        return EnsemblePrediction(self.members @ self.inputs(archs).T + self.center)
