"""A whole training as a stream of what it tells, and the process that trains alone."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from trainables.learning.testing import accuracy
from trainables.learning.trainer import Trainer, make_device


@dataclass(frozen=True)
class Milestone:
    """What a training tells after each epoch, and once more at its end."""

    report: Mapping[str, float | None]  # that of `Trainer.train_epoch` and `valid_accuracy`; at the end `valid_` and `test_accuracy`
    state: bytes | None  # the file of `Trainer.state_dict`; None at the end
    confusion: Tensor | None = None  # at the end, that of the test images


def milestones(trainer: Trainer) -> Iterator[Milestone]:
    """Trains all epochs that are left, and evaluates."""
    while trainer.epoch < trainer.epochs:
        report = trainer.train_epoch()
        yield Milestone(report | {"valid_accuracy": trainer.evaluate("valid")}, dumped(trainer.state_dict()))
    confusion = trainer.confusion("test")
    yield Milestone({"valid_accuracy": trainer.evaluate("valid"), "test_accuracy": accuracy(confusion)}, None, confusion)


def dumped(state: Any) -> bytes:
    """A state as the contents of a file for `torch.load`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


class Team(Protocol):
    """Those who train a network; they are at hand within `with`. Its text says who they are."""

    device: torch.device  # for the Trainer of this process
    cluster: Any  # the `raynas.run.connect.Cluster` on which they are, within `with`; None: without one

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def train(self, trainer: Trainer) -> Iterator[Milestone]:
        """Trains from the state of `trainer` on, to the end."""
        ...


class Alone:
    """This process, on one device.

    Raises:
        ConfigError: there is no such device.
    """

    cluster = None

    def __init__(self, device: str) -> None:
        self.device = make_device(device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass  # it holds nothing

    def __str__(self) -> str:
        return str(self.device)

    def train(self, trainer: Trainer) -> Iterator[Milestone]:
        return milestones(trainer)
