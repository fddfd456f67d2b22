"""An ensemble of graph networks on `space.graph`, trained as one batched model.

k: members, n: observations, V: vertices, f: features of a vertex, h: width. Torch differentiates; it is loaded by what computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from raynas.arch import Arch
from raynas.errors import ConfigError, ShapeError
from raynas.model.graphs import Graphs, graphs, positions
from raynas.model.predictors.base import EnsemblePrediction, Floats, GaussianPrediction, check_settings
from raynas.model.predictors.mlp import one_thread
from raynas.spaces.base import SearchSpace

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Loss = Literal["mse", "rank", "nll", "weighted"]
Layer = Literal["directed", "gcn", "gin"]

_COUNTS = "members", "layers", "width", "hidden", "epochs", "batch_size"
_WEIGHT = 0.3  # of standardised positions, beside operations: they are many
_ROWS = 2048  # graphs that are predicted at once


@dataclass(frozen=True)
class GraphEnsemble:
    """Settings of the ensemble. Same data, same seed, same device: same predictions.

    A layer lets each vertex see its predecessors and its successors; the mean over all vertices and that over the sinks are read by
    a hidden layer and an output. All members are trained at once, by AdamW (arXiv 1711.05101) with a one-cycle schedule.

    Args:
        layer: `directed` adds relu(W [x, mean of predecessors, mean of successors]) to x and normalises that (arXiv 1607.06450). `gcn` is
            of Wen et al. (ECCV 2020, arXiv 1912.00848): the mean of relu(A x W) and relu(A' x W'), where the rows of A, and of A' for the
            edges turned round, include the vertex itself and sum to 1. `gin` (Xu et al., arXiv 1810.00826), as in NPENAS, has two layers
            on the sum of x and all neighbours.
        positions: whether vertices know where they are (raynas.model.graphs.positions), besides their operation.
        loss: `mse`; `rank`, the logistic loss of all pairs (RankNet, Burges et al., ICML 2005), whose outputs are then scaled to the
            targets; `nll`, the negative log likelihood of a normal distribution whose deviation is an output, too; `weighted`, the
            squared error of which good architectures have more, as in BONAS (Shi et al., arXiv 1911.09336).
        batch_size: None: all observations at once, up to 500. At least 2 with `rank`, which compares those of a batch.
        dropout: of what layers pass on.
    """

    members: int = 4
    layers: int = 3
    width: int = 48
    hidden: int = 64
    epochs: int = 150
    learning_rate: float = 0.005
    weight_decay: float = 0.02
    dropout: float = 0.1
    batch_size: int | None = None
    loss: Loss = "mse"
    layer: Layer = "directed"
    positions: bool = True
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_settings(self, {"loss": get_args(Loss), "layer": get_args(Layer)}, _COUNTS)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"the predictor's dropout must be at least 0 and less than 1, not {self.dropout}")
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            rates = f"{self.learning_rate} and {self.weight_decay}"
            raise ConfigError(f"the predictor's learning_rate must be positive and its weight_decay not negative, not {rates}")
        if self.loss == "rank" and self.batch_size == 1:
            raise ConfigError("the predictor's batch_size must be at least 2 with the loss rank, which compares those of a batch")

    def check(self, space: SearchSpace) -> None:
        """Raises OutOfSpaceError where the space does not say how its architectures are graphs, as `raynas.model.graphs.graphs`."""
        graphs(space, [space.sample(np.random.default_rng(0))])

    def fit(self, space: SearchSpace, archs: Sequence[Arch], targets: Floats, seed: int) -> FittedGraphEnsemble:
        """Trains the ensemble on n architectures and targets (n,).

        Raises:
            OutOfSpaceError: the space does not say how its architectures are graphs.
            ShapeError: there are no observations, or targets are not finite numbers (n,).
        """
        import torch

        if targets.shape != (len(archs),) or not archs or not np.isfinite(targets).all():
            raise ShapeError(f"targets must be finite numbers (n,) with n = {len(archs)} > 0, here {targets.shape}")
        center, spread = float(targets.mean()), float(targets.std()) or 1.0
        batch = graphs(space, archs)
        reader = _Reader.of(self, space, batch)
        y = torch.as_tensor((targets - center) / spread, dtype=torch.float32, device=self.device)
        with one_thread():
            network, inputs = _Network(self, reader.features, torch.Generator().manual_seed(seed)), reader.read(batch)
            self._train(network, inputs, y)
            scale = self._scale(network, inputs, y)
        return FittedGraphEnsemble(network, reader, scale, center, spread)

    def _train(self, network: _Network, inputs: Inputs, y: Tensor) -> None:
        import torch

        n = len(y)
        per_epoch = math.ceil(n / (self.batch_size or 500))
        steps = self.epochs * per_epoch if self.batch_size else math.ceil(self.epochs * math.sqrt(per_epoch))
        optimizer = torch.optim.AdamW(network.parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        rise = max(0.1, 2 / (steps + 1))  # a step at least: torch divides by their number
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps + 1, pct_start=rise)
        favour = ((y - y.min()) / (y.max() - y.min()).clamp(min=1e-6)).expm1() / (math.e - 1)  # 0 for the worst of all, 1 for the best
        batches: list[Tensor] = []
        for _ in range(steps):
            if per_epoch > 1:
                batches = batches or list(torch.randperm(n, generator=network.generator).chunk(per_epoch))
                chosen = batches.pop()
                loss = self._loss(network(inputs.at(chosen), self.dropout), y[chosen], favour[chosen])
            else:
                loss = self._loss(network(inputs, self.dropout), y, favour)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()

    def _loss(self, outputs: Tensor, y: Tensor, favour: Tensor) -> Tensor:
        """Sum over members of the mean loss of outputs (k, b, 2); favour (b,) is the weight of each in the `weighted` one."""
        import torch.nn.functional as f

        value = outputs[..., 0]
        if self.loss == "mse":
            return (value - y).square().mean(1).sum()
        if self.loss == "weighted":
            return (favour * (value - y).square()).mean(1).sum()
        if self.loss == "nll":
            deviation = deviations(outputs)
            return (deviation.log() + ((value - y) / deviation).square() / 2).mean(1).sum()
        better = (y[:, None] > y).to(value.dtype)  # (b, b)
        return (f.softplus(value[:, None, :] - value[:, :, None]) * better).sum() / better.sum().clamp(min=1)

    def _scale(self, network: _Network, inputs: Inputs, y: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Factor and summand (k, 1) that bring what members say to the targets: those of least squares, where a loss knows no scale."""
        import torch

        if self.loss != "rank":
            return np.ones((self.members, 1)), np.zeros((self.members, 1))
        with torch.no_grad():
            values = network(inputs)[..., 0].double().cpu().numpy()  # (k, n)
        means, variances = values.mean(1, keepdims=True), values.var(1, keepdims=True)
        observed = y.double().cpu().numpy()
        factor = ((values - means) * observed).mean(1, keepdims=True) / np.maximum(variances, 1e-12)
        return factor, observed.mean() - factor * means


def deviations(outputs: Tensor) -> Tensor:
    """(k, b) of outputs (k, b, 2)."""
    import torch.nn.functional as f

    return f.softplus(outputs[..., 1]) + 1e-2


@dataclass(frozen=True)
class Inputs:
    """Graphs as tensors."""

    vertices: Tensor  # (n, V, f)
    edges: Tensor  # (n, V, V)
    real: Tensor  # (n, V, 1)
    sinks: Tensor  # (n, V, 1)

    def at(self, chosen: Any) -> Inputs:
        """Some of them."""
        return Inputs(self.vertices[chosen], self.edges[chosen], self.real[chosen], self.sinks[chosen])


@dataclass(frozen=True)
class _Reader:
    """What makes tensors of architectures."""

    space: SearchSpace
    positions: bool
    device: str
    shift: Floats  # (d,) of positions
    scale: Floats  # (d,)

    @classmethod
    def of(cls, settings: GraphEnsemble, space: SearchSpace, batch: Graphs) -> _Reader:
        """Positions are standardised as in these graphs."""
        if not settings.positions:
            return cls(space, False, settings.device, np.empty(0), np.empty(0))
        known = positions(batch, len(space.graph_operations))[batch.real].astype(np.float64)
        deviation = known.std(axis=0)
        return cls(space, True, settings.device, known.mean(axis=0), np.where(deviation > 1e-6, deviation, 1.0))

    @property
    def features(self) -> int:
        """Of a vertex."""
        return len(self.space.graph_operations) + len(self.shift)

    def read(self, batch: Graphs) -> Inputs:
        """n graphs."""
        import torch

        kinds = len(self.space.graph_operations)
        vertices = [(batch.operations[:, :, None] == np.arange(kinds)).astype(np.float64)]
        if self.positions:
            standard = _WEIGHT * np.clip((positions(batch, kinds) - self.shift) / self.scale, -4, 4)
            vertices.append(standard * batch.real[:, :, None])
        arrays = np.concatenate(vertices, axis=2), batch.edges, batch.real[:, :, None], batch.sinks[:, :, None]
        return Inputs(*(torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=self.device) for array in arrays))


class _Network:
    """Parameters of all members, and what they make of graphs."""

    def __init__(self, settings: GraphEnsemble, features: int, generator: torch.Generator) -> None:
        self.settings, self.generator, self.parameters = settings, generator, list[Any]()
        width, hidden = settings.width, settings.hidden
        self.embed = self._weights(features, width)
        inner = {"directed": [(3 * width, width)], "gcn": [(width, width)] * 2, "gin": [(width, width)] * 2}[settings.layer]
        self.layers = [[(self._weights(*shape), self._bias(shape[1])) for shape in inner] for _ in range(settings.layers)]
        self.read = self._weights(2 * width, hidden), self._bias(hidden)
        self.out = self._weights(hidden, 2, 0.1), self._bias(2)

    def _weights(self, fan_in: int, fan_out: int, scale: float = 1.0) -> Tensor:
        import torch

        drawn = (2 * torch.rand(self.settings.members, fan_in, fan_out, generator=self.generator) - 1) * scale * math.sqrt(3 / fan_in)
        return self._parameter(drawn)

    def _bias(self, size: int) -> Tensor:
        import torch

        return self._parameter(torch.zeros(self.settings.members, 1, size))

    def _parameter(self, value: Tensor) -> Tensor:
        value = value.to(self.settings.device).requires_grad_()
        self.parameters.append(value)
        return value

    def _dropped(self, x: Tensor, dropout: float) -> Tensor:
        """Dropout (arXiv 1207.0580), of which torch's own draws from its global generator."""
        import torch

        if not dropout:
            return x
        kept = torch.rand(x.shape, generator=self.generator).to(x.device) >= dropout
        return x * kept / (1 - dropout)

    def embedding(self, inputs: Inputs, dropout: float = 0.0) -> Tensor:
        """(k, n, 2 h) means over the vertices and over the sinks."""
        import torch

        (n, v, _), k = inputs.vertices.shape, self.settings.members
        forward = inputs.edges.transpose(1, 2)
        flows = [self._flow(forward), self._flow(inputs.edges)]  # nothing comes from padding, which is not read either
        x = torch.bmm(inputs.vertices.reshape(1, n * v, -1).expand(k, -1, -1), self.embed)
        for layer in self.layers:
            x = self._dropped(self._layer(x, layer, flows, (k, n, v)), dropout)
        x = x.view(k, n, v, -1)
        sums = [(x * each).sum(2) / each.sum(1).clamp(min=1) for each in (inputs.real, inputs.sinks)]
        return torch.cat(sums, 2)

    def _flow(self, edges: Tensor) -> Tensor:
        """(n, V, V) how much of each vertex comes to each other one along `edges`."""
        import torch

        if self.settings.layer == "gin":
            return edges
        if self.settings.layer == "gcn":
            edges = edges + torch.eye(edges.shape[1], device=edges.device)
        return edges / edges.sum(2, keepdim=True).clamp(min=1)

    def _layer(self, x: Tensor, layer: list[tuple[Tensor, Tensor]], flows: list[Tensor], shape: tuple[int, int, int]) -> Tensor:
        import torch
        import torch.nn.functional as f

        vertices = x.view(*shape, -1)
        seen = [(flow @ vertices).view(x.shape) for flow in flows]
        if self.settings.layer == "gcn":
            return sum(torch.baddbmm(b, each, w).relu() for each, (w, b) in zip(seen, layer, strict=True)) / 2  # type: ignore[return-value]
        if self.settings.layer == "gin":
            x = x + seen[0] + seen[1]
            for w, b in layer:
                x = torch.baddbmm(b, x, w).relu()
            return f.layer_norm(x, x.shape[-1:])
        ((w, b),) = layer
        return f.layer_norm(x + torch.baddbmm(b, torch.cat([x, *seen], 2), w).relu(), x.shape[-1:])

    def top(self, embedded: Tensor, dropout: float = 0.0) -> Tensor:
        """(k, n, hidden) what the last hidden layer makes of embeddings."""
        import torch

        weight, bias = self.read
        return torch.baddbmm(bias, self._dropped(embedded, dropout), weight).relu()

    def __call__(self, inputs: Inputs, dropout: float = 0.0) -> Tensor:
        """(k, n, 2) the prediction, and what its deviation is made of."""
        import torch

        weight, bias = self.out
        return torch.baddbmm(bias, self.top(self.embedding(inputs, dropout), dropout), weight)


@dataclass(frozen=True)
class FittedGraphEnsemble:
    """A trained ensemble."""

    network: _Network
    reader: _Reader
    scale: tuple[NDArray[np.float64], NDArray[np.float64]]
    center: float
    spread: float

    def predict(self, archs: Sequence[Arch]) -> EnsemblePrediction | GaussianPrediction:
        """Predictions of all members for m architectures; of those that predict deviations, independent normal distributions."""
        import torch

        outputs = np.concatenate([out.double().numpy() for out in self._batches(archs, lambda inputs: self.network(inputs))], axis=1)
        factor, summand = self.scale
        members = (outputs[..., 0] * factor + summand) * self.spread + self.center
        if self.network.settings.loss != "nll":
            return EnsemblePrediction(members)
        each = deviations(torch.as_tensor(outputs)).numpy() * self.spread
        std = np.sqrt((each**2).mean(axis=0) + members.var(axis=0))
        return GaussianPrediction.independent(members.mean(axis=0), std)

    def hidden(self, archs: Sequence[Arch]) -> Floats:
        """(k, m, hidden) what the last hidden layer makes of m architectures."""
        found = self._batches(archs, lambda inputs: self.network.top(self.network.embedding(inputs)))
        return np.concatenate([out.double().numpy() for out in found], axis=1)

    def _batches(self, archs: Sequence[Arch], of: Callable[[Inputs], Tensor]) -> list[Tensor]:
        import torch

        with torch.no_grad(), one_thread():
            parts = (graphs(self.reader.space, archs[i : i + _ROWS]) for i in range(0, len(archs), _ROWS))
            return [of(self.reader.read(part)).cpu() for part in parts]
