"""The meta network of BANANAS: an ensemble of feed-forward networks, trained as one batched model.

k: members, n: observations, d: features, b: batch, h: width. Source: White et al., arXiv 1910.11858, section 4. All members
are trained at once with batched matrix products, and the gradient is written out: at this size the bookkeeping of automatic
differentiation costs more than the products. Settings are made where nothing is fitted, so torch is loaded by what computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from raynas.model.predictors.base import EnsemblePrediction, Floats, VectorModel, check_candidates, check_observations, check_settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Loss = Literal["mae", "mse"]
Schedule = Literal["cosine", "constant"]
Activation = Literal["relu", "tanh"]

_LARGEST = 1000  # observations in one step, unless a batch size is given: more make it slower and the predictions no better


@dataclass(frozen=True)
class MLPEnsemble(VectorModel):
    """Settings of the ensemble.

    The defaults are wider and shallower than the paper's 5 networks of 10 layers of 20, trained on the full batch with a cosine schedule.
    Of more than 1,000 observations each step sees at most so many, in turn, and steps grow with the square root of their number only, so
    that a fit to 10,000 takes three times as long. Same data, same seed, same device: same predictions.
    """

    members: int = 10
    layers: int = 2
    width: int = 64
    epochs: int = 60
    learning_rate: float = 0.005
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.02  # decoupled, as in AdamW (arXiv 1711.05101)
    batch_size: int | None = None  # None: all observations at once, up to 1,000
    loss: Loss = "mae"
    schedule: Schedule = "cosine"
    activation: Activation = "relu"
    glorot: bool = False  # Glorot-uniform initialisation as in the paper; else uniform in +-1/sqrt(fan-in), output layer x 0.1
    standardize: bool = True  # inputs and targets to mean 0 and deviation 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        choices = {"loss": get_args(Loss), "schedule": get_args(Schedule), "activation": get_args(Activation)}
        check_settings(self, choices, ("members", "layers", "width", "epochs", "batch_size"))

    def fit(self, inputs: NDArray[np.float32], targets: Floats, seed: int, weights: Floats | None = None) -> FittedMLPEnsemble:
        """Trains the ensemble on inputs (n, d) and targets (n,).

        Inputs are multiplied by weights (d,) after they were standardised: a function of those with small weights needs larger
        parameters, which gradient descent finds later.
        """
        import torch

        check_observations(inputs, targets, weights)
        shift, scale = _moments(inputs) if self.standardize else (np.zeros(inputs.shape[1]), np.ones(inputs.shape[1]))
        scale = scale if weights is None else scale / weights
        center, spread = _moments(targets) if self.standardize else (np.zeros(()), np.ones(()))
        x = torch.as_tensor((inputs - shift) / scale, dtype=torch.float32, device=self.device)  # (n, d)
        y = torch.as_tensor((targets - center) / spread, dtype=torch.float32, device=self.device)  # (n,)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad(), one_thread():
            matrices, biases = self._train(x, y, generator)
        return FittedMLPEnsemble(matrices, biases, shift, scale, float(center), float(spread), self.activation)

    def _initial(self, features: int, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """All parameters as one vector, and views of it: weights (k, in, out) of every layer, then biases (k, 1, out)."""
        import torch

        sizes = [features, *[self.width] * self.layers, 1]
        shapes = [(self.members, a, b) for a, b in pairwise(sizes)] + [(self.members, 1, b) for b in sizes[1:]]
        flat = torch.zeros(sum(math.prod(shape) for shape in shapes))
        views = split(flat, shapes)
        for layer, (weight, bias) in enumerate(zip(views[: self.layers + 1], views[self.layers + 1 :], strict=True)):
            fan_in, fan_out = weight.shape[1:]
            if self.glorot:
                weight.uniform_(-math.sqrt(6 / (fan_in + fan_out)), math.sqrt(6 / (fan_in + fan_out)), generator=generator)
            else:
                bound = (0.1 if layer == self.layers else 1.0) / math.sqrt(fan_in)
                weight.uniform_(-bound, bound, generator=generator)
                bias.uniform_(-bound, bound, generator=generator)
        flat = flat.to(self.device)
        return flat, split(flat, shapes)

    def _train(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
        """Adam (arXiv 1412.6980) with decoupled weight decay on the mean absolute or squared error."""
        import torch

        (n, features), k = x.shape, self.members
        flat, views = self._initial(features, generator)
        weights, biases = views[: self.layers + 1], views[self.layers + 1 :]
        gradient, first, second = torch.zeros_like(flat), torch.zeros_like(flat), torch.zeros_like(flat)
        grads = split(gradient, [v.shape for v in views])
        batch, steps = self._steps(n)
        per_epoch = math.ceil(n / batch)
        beta1, beta2 = self.betas
        for step in range(steps):
            if batch == n:
                xb, yb = x.expand(k, n, features), y.expand(k, n)
            else:
                if step % per_epoch == 0:  # every member has an order of its own
                    order = torch.rand(k, n, generator=generator).argsort(1).to(self.device)
                chosen = order[:, step % per_epoch * batch : (step % per_epoch + 1) * batch]
                xb, yb = x[chosen], y[chosen]  # (k, b, d), (k, b)
            self._gradient(xb, yb, weights, biases, grads)
            rate = self.learning_rate * (0.5 * (1 + math.cos(math.pi * step / steps)) if self.schedule == "cosine" else 1.0)
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            if self.weight_decay:
                flat.mul_(1 - rate * self.weight_decay)
            scaled = (second / (1 - beta2 ** (step + 1))).sqrt_().add_(1e-8)
            flat.addcdiv_(first, scaled, value=-rate / (1 - beta1 ** (step + 1)))
        return weights, biases

    def _steps(self, n: int) -> tuple[int, int]:
        """(observations in a step, steps)."""
        if self.batch_size is None:
            return math.ceil(n / math.ceil(n / _LARGEST)), math.ceil(self.epochs * math.sqrt(max(1.0, n / _LARGEST)))
        batch = min(self.batch_size, n)
        return batch, self.epochs * math.ceil(n / batch)

    def _gradient(self, x: Tensor, y: Tensor, weights: list[Tensor], biases: list[Tensor], grads: list[Tensor]) -> Tensor:
        """Writes the gradient of the sum over members of the mean loss into `grads`: backpropagation, written out.

        Returns the residuals (k, b, 1).
        """
        import torch

        activations = [x]
        for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
            z = torch.baddbmm(b, activations[-1], w)  # (k, b, out)
            activations.append(_activate(z, self.activation) if layer < self.layers else z)
        residual = activations[-1] - y[..., None]  # (k, b, 1)
        delta = (residual.sign() if self.loss == "mae" else 2 * residual) / y.shape[1]
        for layer in reversed(range(self.layers + 1)):
            torch.bmm(activations[layer].transpose(1, 2), delta, out=grads[layer])
            torch.sum(delta, 1, keepdim=True, out=grads[self.layers + 1 + layer])
            if layer:
                slope = activations[layer] > 0 if self.activation == "relu" else 1 - activations[layer] ** 2
                delta = torch.bmm(delta, weights[layer].transpose(1, 2)).mul_(slope)
        return residual


def _activate(z: Tensor, activation: Activation) -> Tensor:
    return z.relu_() if activation == "relu" else z.tanh_()


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on several cores than on one, many times so where the cores are busy with trials."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def split(flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Consecutive pieces of `flat`, viewed in the given shapes."""
    import torch

    return [piece.view(*shape) for piece, shape in zip(torch.split(flat, [math.prod(s) for s in shapes]), shapes, strict=True)]


def _moments(values: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation over the first axis, with 1 for a deviation of 0."""
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    return mean, np.where(std > 1e-12, std, 1.0)


@dataclass(frozen=True)
class FittedMLPEnsemble:
    """A trained ensemble."""

    weights: list[Tensor]  # of each layer (k, in, out)
    biases: list[Tensor]  # of each layer (k, 1, out)
    shift: NDArray[np.float64]  # (d,)
    scale: NDArray[np.float64]  # (d,)
    center: float
    spread: float
    activation: Activation = "relu"

    def predict(self, inputs: NDArray[np.float32]) -> EnsemblePrediction:
        """Predictions of all members for inputs (m, d)."""
        outputs = self._forward(inputs, len(self.weights))[..., 0]
        return EnsemblePrediction(outputs * self.spread + self.center)

    def hidden(self, inputs: NDArray[np.float32]) -> Floats:
        """(k, m, h) what the last hidden layer makes of inputs (m, d)."""
        return self._forward(inputs, len(self.weights) - 1)

    def _forward(self, inputs: NDArray[np.float32], layers: int) -> Floats:
        import torch

        check_candidates(inputs, len(self.shift))
        x = torch.as_tensor((inputs - self.shift) / self.scale, dtype=torch.float32, device=self.weights[0].device)
        with torch.no_grad(), one_thread():
            x = x.expand(len(self.weights[0]), *x.shape)
            for layer, (w, b) in enumerate(zip(self.weights[:layers], self.biases[:layers], strict=True)):
                x = torch.baddbmm(b, x, w)
                if layer < len(self.weights) - 1:
                    x = _activate(x, self.activation)
        outputs: Floats = x.double().cpu().numpy()
        return outputs
