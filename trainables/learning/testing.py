"""What the test images tell about a trained network, and what it costs to use."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP, RUNS, SECONDS = 3, 50, 3.0  # of a measurement of latency; it ends after so many runs or seconds


@dataclass(frozen=True)
class ClassResult:
    """How well the test images of a class were recognised. A fraction is None where there is nothing to take it of."""

    name: str
    images: int
    accuracy: float | None  # the fraction of them that was recognised (recall)
    precision: float | None  # the fraction of the images taken for this class that are of it
    mistaken_for: str | None  # the class for which most of the others were taken


def accuracy(confusion: Tensor) -> float | None:
    """The fraction of images that were classified correctly, from the counts (classes, classes); None if there are no images."""
    return _share(confusion.trace(), confusion.sum())


def by_class(confusion: Tensor, names: Sequence[str]) -> list[ClassResult]:
    """The result of each class, from the counts (classes, classes) of `Trainer.confusion`."""
    right, images, taken = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    wrong = confusion - torch.diag(right)
    return [
        ClassResult(
            name,
            int(images[i]),
            _share(right[i], images[i]),
            _share(right[i], taken[i]),
            names[int(wrong[i].argmax())] if wrong[i].any() else None,
        )
        for i, name in enumerate(names)
    ]


def _share(part: Tensor, whole: Tensor) -> float | None:
    return int(part) / int(whole) if whole else None


def latency(network: nn.Module, channels: int, size: int, images: int = 1) -> float:
    """Milliseconds, the median of several runs, in which a network classifies so many images at once, on the device where it is."""
    device = next(network.parameters()).device
    batch = torch.zeros(images, channels, size, size, device=device)
    seconds: list[float] = []
    with torch.inference_mode():
        for run in range(WARM_UP + RUNS):
            began = time.perf_counter()
            network(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds += [time.perf_counter() - began] if run >= WARM_UP else []
            if sum(seconds) > SECONDS:
                break
    return 1000 * median(seconds)


def as_json(confusion: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """The test report as `test.json` holds it."""
    return {"classes": [vars(result) for result in by_class(confusion, names)], "confusion": confusion.tolist()}
