"""Time to fit the ensemble, against one network after the other trained by automatic differentiation, in the same process.

The reference trains what the original code of BANANAS trains: 5 networks of 10 x 20, batches of 32, 150 epochs, each by itself, written
here in plain PyTorch. Run: python benchmarks/predictor.py
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from raynas.model.encodings import encode
from raynas.model.predictors.mlp import MLPEnsemble
from raynas.spaces import make_space
from searchers import Bananas


def one_by_one(inputs: NDArray[np.float32], targets: NDArray[np.float64]) -> None:
    """The plain reference."""
    x, y = torch.as_tensor(inputs), torch.as_tensor(targets, dtype=torch.float32)
    for _ in range(5):
        widths = [inputs.shape[1], *[20] * 10]
        layers = [layer for a, b in pairwise(widths) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
        network = torch.nn.Sequential(*layers, torch.nn.Linear(20, 1))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.9, 0.99))
        for _ in range(150):
            for batch in torch.randperm(len(x)).split(32):
                optimizer.zero_grad()
                (network(x[batch])[:, 0] - y[batch]).abs().mean().backward()
                optimizer.step()


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    space, rng = make_space("nasbench101"), np.random.default_rng(0)
    encoding = Bananas().encoding
    print("observations | ensemble, s | one by one, s | ratio")
    for n in (20, 100, 500, 1000):
        archs = [space.sample(rng) for _ in range(n)]
        inputs, targets = encode(encoding, space, archs), rng.normal(size=n)
        ours = seconds(lambda x=inputs, y=targets: MLPEnsemble().fit(x, y, seed=0), 5)  # type: ignore[misc]
        plain = seconds(lambda x=inputs, y=targets: one_by_one(x, y), 1)  # type: ignore[misc]
        print(f"{n:12d} | {ours:11.3f} | {plain:13.2f} | {plain / ours:5.1f}")


if __name__ == "__main__":
    main()
