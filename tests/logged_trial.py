"""Trials that train for the tests, and write down what they did, each from the process in which it ran."""

import hashlib
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from ray.util import get_node_ip_address

from trainables.train import TrainTrial

LOG = "RAYNAS_TEST_LOG"  # environment variable: the file to append to


def weights(trial: TrainTrial) -> str:
    """A digest of every weight and statistic of a trial's network, and of its optimizer's state."""
    assert trial._trainer is not None
    optimizer = trial._trainer.optimizer.state_dict()["state"]
    tensors = [*trial._trainer.network.state_dict().values(), *(value for state in optimizer.values() for value in state.values())]
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors if isinstance(t, torch.Tensor))).hexdigest()


class LoggedTrial(TrainTrial):
    """Writes one line an epoch, before a pause in which it can be killed."""

    pause = 0.2  # s

    def step(self) -> dict[str, Any]:
        report = super().step()
        line = {
            "process": os.getpid(),
            "node": get_node_ip_address(),
            "arch": self._arch.id,
            "epoch": report["epoch"],
            "weights": weights(self),
        }
        with Path(os.environ[LOG]).open("a") as log:
            log.write(json.dumps(line | {key: report[key] for key in ("train_loss", "valid_accuracy")}) + "\n")
        time.sleep(self.pause)
        return report


class SlowTrial(LoggedTrial):
    """Leaves the time to take its node away in the midst of an epoch."""

    pause = 1.5


class DyingTrial(LoggedTrial):
    """The process of the first trial that comes to its fourth epoch is killed."""

    def step(self) -> dict[str, Any]:
        assert self._trainer is not None
        if self._trainer.epoch == 3:
            with suppress(FileExistsError):  # another one died
                Path(os.environ[LOG] + "-died").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step()


class DivergingTrial(LoggedTrial):
    """The weights of every second architecture that a process trains are no numbers from the second epoch on."""

    count = 0

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        type(self).count += 1

    def step(self) -> dict[str, Any]:
        assert self._trainer is not None
        if self.count % 2 == 0 and self._trainer.epoch == 1:
            with torch.no_grad():
                next(self._trainer.network.parameters()).fill_(torch.nan)
        return super().step()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines that trials have written."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
