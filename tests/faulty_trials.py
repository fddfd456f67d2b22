"""Trials that something happens to: a first-come architecture each, so that all of it fits into one run."""

import ctypes
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

FOLDER = "FAULTY_TRIALS"  # environment variable: a folder for the log and for who suffers what
LOG = "log.jsonl"
HANGING = "hanging"  # the folder with a file for each architecture whose trial hangs


def folder() -> Path:
    return Path(os.environ[FOLDER])


def read_log(path: Path) -> list[dict[str, Any]]:
    """The epochs that were run, in order: `arch, epoch, process, node`."""
    file = path / LOG
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


class Epochs(tune.Trainable):  # type: ignore[misc]  # ray has no types
    """Three epochs with a checkpoint after each; every epoch is a line of the log when it begins."""

    pause = 0.1  # s

    def setup(self, config: dict[str, Any]) -> None:
        self.arch, self.epoch = config["arch"]["id"], 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        self.epoch += 1
        with (folder() / LOG).open("a") as log:
            line = {"arch": self.arch, "epoch": self.epoch, "process": os.getpid(), "node": ray.get_runtime_context().get_node_id()}
            log.write(json.dumps(line) + "\n")
        time.sleep(self.pause)
        return {"epoch": self.epoch, "valid_accuracy": len(self.arch) / 1000 + self.epoch / 10, "done": self.epoch == 3}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "epoch").write_text(str(self.epoch))

    def load_checkpoint(self, checkpoint: str) -> None:
        self.epoch = int((Path(checkpoint) / "epoch").read_text())


class Slow(Epochs):
    """An epoch takes longer than it takes Ray to end the processes of a node that is gone."""

    pause = 5.0


class Greedy(Epochs):
    """One architecture takes more memory than its node has to give, until it is killed for it: once."""

    def step(self) -> dict[str, Any]:
        report = super().step()
        if self.epoch == 2 and _is("greedy", self.arch) and _first("greedy"):
            taken = bytearray(b"x") * (5 * 2**30)
            time.sleep(100)
            del taken
        return report


class Faulty(Epochs):
    """One architecture each is killed, hangs in setup, hangs later (in C code that holds the interpreter's lock), raises an error,
    reports a number beyond all others, or fails to save; the first, second and last of them only once."""

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        self.fault = next((fault for fault in ("killed", "stuck", "hung", "own", "huge", "full") if _is(fault, self.arch)), None)
        if self.fault == "stuck" and _first(self.fault):
            self._hang()

    def step(self) -> dict[str, Any]:
        report = super().step()
        if self.epoch == 2 and self.fault == "killed" and _first(self.fault):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.epoch == 2 and self.fault == "hung":
            self._hang()
        if self.epoch == 2 and self.fault == "own":
            raise ValueError("no such layer")
        return report | ({"valid_accuracy": 10**400} if self.fault == "huge" else {})

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self.epoch == 2 and self.fault == "full" and _first(self.fault):
            raise OSError(28, "No space left on device")
        super().save_checkpoint(checkpoint_dir)

    def _hang(self) -> None:
        (folder() / HANGING / self.arch).touch()
        ctypes.PyDLL(None).sleep(1000)  # which keeps the lock


def _is(fault: str, arch: str) -> bool:
    """Whether this architecture is the one that suffers it; the first that asks is."""
    path = folder() / fault
    try:
        with path.open("x") as file:
            file.write(arch)
    except FileExistsError:
        return path.read_text() == arch
    return True


def _first(fault: str) -> bool:
    try:
        (folder() / f"{fault}-once").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
