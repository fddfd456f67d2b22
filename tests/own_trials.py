"""Trainables as users write them, who know of Tune alone; and mistakes."""

import os
import time
from pathlib import Path
from typing import Any

from ray import tune

from raynas.arch import Arch
from raynas.outcome import Metric
from raynas.spaces import Cost, SearchSpace
from raynas.spaces.nasbench201 import NASBench201Space
from searchers import Random

LOG = "OWN_TRIALS_LOG"  # environment variable: the file to which trials add their names


class Plain(tune.Trainable):  # type: ignore[misc]  # ray has no types
    """Two epochs; it knows neither `plan` nor `reset_config`, and reports no more than it must."""

    def setup(self, config: dict[str, Any]) -> None:
        self.quality = len(config["arch"]["id"]) / 1000

    def step(self) -> dict[str, Any]:
        return {"epoch": self.iteration + 1, "valid_accuracy": self.quality, "done": self.iteration == 1}


class Timed(Plain):
    """Measures a latency besides."""

    metrics = (Metric("latency", "min", "ms"),)

    def step(self) -> dict[str, Any]:
        return super().step() | {"latency": 100 * self.quality}


class Endless(Plain):
    """Says neither when it is done nor how far it is, and knows the time better than the clock."""

    def step(self) -> dict[str, Any]:
        return {"valid_accuracy": self.quality, "wall_seconds": -4}


class Misnamed(tune.Trainable):  # type: ignore[misc]
    """Reports `accuracy` where `valid_accuracy` is asked for."""

    def step(self) -> dict[str, Any]:
        return {"epoch": 1, "accuracy": 0.5, "done": True}


class Choosy(Plain):
    """Fails for most architectures: those without a skip connection on the last edge."""

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        if not config["arch"]["id"].endswith("skip_connect~2|"):
            raise RuntimeError(f"no memory for {config['arch']['id']}")


class Slow(Plain):
    """Takes its time."""

    def step(self) -> dict[str, Any]:
        time.sleep(0.1)
        return super().step()


def measure(config: dict[str, Any]) -> None:
    """A function that reports once."""
    with Path(os.environ[LOG]).open("a") as log:
        log.write(config["arch"]["id"] + "\n")
    tune.report({"valid_accuracy": len(config["arch"]["id"]) / 1000})


def propose_one(space: SearchSpace) -> None:
    """No method: it takes too little."""


def propose_nothing(space: SearchSpace, history: Any, rng: Any, count: int) -> Any:
    """A method that always fails."""
    raise RuntimeError("nothing comes to mind")


def of_nothing() -> None:
    """No trainable: it takes no configuration."""


class Unfinished(SearchSpace):
    """A space that lacks most of what one needs."""

    name = "unfinished"

    def sample(self, rng: Any) -> Any:
        return None


class Broken(Random):
    """A method that cannot be made."""

    def __post_init__(self) -> None:
        raise ValueError("there is no oracle")


class NoTrainable:
    """A class of something else."""


class Outer:
    """Holds what no other process can import by `module:name`."""

    class Inner(Plain):
        """Such a thing."""


class CostlySpace(NASBench201Space):
    """Its costs are no whole numbers."""

    def cost(self, arch: Arch) -> Cost:
        return Cost(1.5, 2)  # type: ignore[arg-type]


class FailingSpace(NASBench201Space):
    """Fails when it is asked for paths."""

    def paths(self, arch: Arch) -> tuple[int, ...]:
        raise RuntimeError("no way")
