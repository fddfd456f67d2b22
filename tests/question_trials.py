"""Trials for questions: better with more convolutions; some fail, and some processes are killed."""

import os
import signal
import zlib
from pathlib import Path
from typing import Any

from ray import tune

FOLDER = "QUESTION_TRIALS"  # environment variable: a folder with a file for each architecture that was killed
KILLED = 2  # processes


class Trial(tune.Trainable):  # type: ignore[misc]  # ray has no types
    """Nine epochs, if nothing happens."""

    def setup(self, config: dict[str, Any]) -> None:
        self.arch, self.epoch = config["arch"]["id"], 0
        self.number = zlib.crc32(self.arch.encode())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        self.epoch += 1
        if self.epoch == 2 and self.number % 7 == 0:
            raise ValueError("no such layer")
        if self.epoch == 2 and self.number % 5 == 1:
            self._die_once()
        quality = self.arch.count("conv") / 10 + self.number % 1000 / 1e5
        return {"epoch": self.epoch, "valid_accuracy": quality * self.epoch / 9, "train_seconds": 2.0 * self.epoch, "done": self.epoch == 9}

    def _die_once(self) -> None:
        killed = Path(os.environ[FOLDER])
        if len(list(killed.iterdir())) < KILLED and not (killed / str(self.number)).exists():
            (killed / str(self.number)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
