"""BOHAMIANN: Bayesian neural networks, drawn by stochastic gradient Hamiltonian Monte Carlo.

k: chains, n: observations, b: batch, s: samples. Networks and their gradient are those of `mlp`; all chains go at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raynas.errors import ConfigError
from raynas.model.predictors.base import Floats, VectorModel
from raynas.model.predictors.mlp import FittedMLPEnsemble, MLPEnsemble, split

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LOG_NOISE = math.log(1e-2)  # where the logarithm of the noise variance starts, and the mean of its prior
_LOG_NOISE_VARIANCE = 1.0  # of this prior; much less noise makes the dynamics of a few observations unstable


@dataclass(frozen=True)
class _Sampled(MLPEnsemble):
    """Networks that are drawn from their posterior instead of trained."""

    steps: int = 1500
    burn_in: int = 1000
    keep_every: int = 50
    friction: float = 0.05

    def _train(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
        """Adaptive SGHMC (Springenberg et al. 2016, equations 7 to 10), as pybnn has it; a sample holds the networks of all chains."""
        import torch

        (n, features), k = x.shape, self.members
        initial, views = self._initial(features, generator)
        shapes = [view.shape for view in views]
        state = torch.cat([initial, torch.full((k,), _LOG_NOISE)])  # the weights, and of each chain the logarithm of the noise variance
        owners = torch.cat([torch.arange(k).repeat_interleave(view[0].numel()) for view in views])
        gradient, tau, g, v, momentum = torch.zeros_like(state), *(torch.ones_like(state) for _ in range(3)), torch.zeros_like(state)
        layers, grads, count = split(state[:-k], shapes), split(gradient[:-k], shapes), self.layers + 1
        batch, rate, kept = min(self.batch_size or n, n), self.learning_rate, []
        for step in range(self.steps):
            chosen = torch.randint(n, (k, batch), generator=generator) if batch < n else torch.arange(n).expand(k, n)
            squares = self._gradient(x[chosen], y[chosen], layers[:count], layers[count:], grads).square_().mean(dim=(1, 2))  # (k,)
            precision = torch.exp(-state[-k:])
            gradient[:-k].mul_(n / 2 * precision[owners]).add_(state[:-k])  # of the likelihood, and of a standard normal prior
            gradient[-k:] = n / 2 * (1 - precision * squares) + (state[-k:] - _LOG_NOISE) / _LOG_NOISE_VARIANCE
            if step < self.burn_in:
                window = 1 / (tau + 1)
                tau += 1 - tau * g * g / v
                g.lerp_(gradient, window)
                v.lerp_(gradient**2, window)
            inverse = v.rsqrt()
            noise = torch.randn(len(state), generator=generator) * (2 * rate * self.friction * inverse - rate**2).clamp_(min=1e-16).sqrt_()
            momentum.mul_(1 - self.friction).addcmul_(inverse, gradient, value=-rate).add_(noise)
            state += momentum
            if step >= self.burn_in and (step - self.burn_in) % self.keep_every == self.keep_every - 1:
                kept.append(split(state[:-k].clone(), shapes))
        drawn = [torch.cat(parts) for parts in zip(*kept, strict=True)]  # (s * k, ...)
        return drawn[:count], drawn[count:]


@dataclass(frozen=True)
class Bohamiann(VectorModel):
    """Settings: those of pybnn as BANANAS was compared with it, but for chains, each shorter, and a prior.

    Source: Springenberg et al., Bayesian Optimization with Robust Bayesian Neural Networks (NIPS 2016), section 3. Inputs and targets are
    standardised; weights have a standard normal prior, the noise variance a lognormal one. There one chain takes 10,000 steps, of which
    it keeps every 50th after 1,000; ten chains of 1,500 steps give as good predictions in half the time.

    Args:
        layers, width: of the network, with hyperbolic tangents.
        chains: how many go side by side, from starts of their own.
        steps, burn_in, keep_every: of a chain; of those after the burn-in, during which it adapts its scales, every such one is a sample.
        batch_size: observations in a step.
        learning_rate, friction: of the dynamics (epsilon squared and epsilon times the friction in the paper).
    """

    layers: int = 2
    width: int = 50
    chains: int = 10
    steps: int = 1500
    burn_in: int = 1000
    keep_every: int = 50
    batch_size: int = 20
    learning_rate: float = 0.01
    friction: float = 0.05

    def __post_init__(self) -> None:
        if self.keep_every < 1 or self.burn_in < 0 or self.steps < self.burn_in + self.keep_every:
            raise ConfigError(
                f"steps must be at least burn_in + keep_every, and keep_every 1, not {self.steps}, {self.burn_in}, {self.keep_every}"
            )
        if min(self.learning_rate, self.friction) <= 0:
            raise ConfigError(f"learning_rate and friction must be positive, not {self.learning_rate} and {self.friction}")
        self._network()

    def _network(self) -> _Sampled:
        return _Sampled(
            members=self.chains,
            layers=self.layers,
            width=self.width,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            loss="mse",
            activation="tanh",
            steps=self.steps,
            burn_in=self.burn_in,
            keep_every=self.keep_every,
            friction=self.friction,
        )

    def fit(self, inputs: NDArray[np.float32], targets: Floats, seed: int, weights: Floats | None = None) -> FittedMLPEnsemble:
        """Draws networks given inputs (n, d) and targets (n,); weights (d,) as for the ensemble."""
        return self._network().fit(inputs, targets, seed, weights)
